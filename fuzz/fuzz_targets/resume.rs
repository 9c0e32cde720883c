//! A demuxer that goes on in the middle of any input, by what another one remembered of it. The first byte chooses the
//! chunks and the unit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use segmill::media::demux::{Demuxer, Event, State};
use segmill_fuzz::{LIMITS, Memory};

fuzz_target!(|data: &[u8]| {
    let Some((choice, input)) = segmill_fuzz::split(data) else { return };
    segmill_fuzz::bounded(input.len(), || {
        let Some(state) = remembered(choice, input) else { return };
        let written = postcard::to_allocvec(&state).expect("a state can be written");
        assert_eq!(postcard::from_bytes::<State>(&written).ok().as_ref(), Some(&state));
        go_on(&state, input);
    });
});

/// What is remembered at one of the input's first units.
fn remembered(choice: u8, input: &[u8]) -> Option<State> {
    let mut demuxer = Demuxer::new(None, LIMITS, Box::new(Memory::default()));
    let (mut tracks, mut units) = (Vec::new(), 0);
    demuxer.push(input.to_vec().into()).ok()?;
    demuxer.finish();
    loop {
        let event = demuxer.poll().ok()??;
        if let Event::Unit(unit) = &event {
            if units == choice % 16 {
                return demuxer.state(unit.offset, tracks);
            }
            units += 1;
        } else if let Event::Tracks { tracks: told, .. } = event {
            tracks = told;
        }
    }
}

fn go_on(state: &State, input: &[u8]) {
    let Ok(mut demuxer) = Demuxer::resume(state, LIMITS, Box::new(Memory::default())) else { return };
    let (set_up, offset) = (state.set_up_bytes() as usize, state.offset() as usize);
    assert!(set_up <= offset && offset <= input.len(), "{set_up} bytes, and all from {offset} of {}", input.len());
    for piece in [&input[..set_up], &input[offset..]] {
        if demuxer.push(piece.to_vec().into()).is_err() {
            return;
        }
        while let Ok(Some(_)) = demuxer.poll() {}
    }
    demuxer.finish();
    while let Ok(Some(_)) = demuxer.poll() {}
}
