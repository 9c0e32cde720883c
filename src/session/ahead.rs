//! Live segments that are at work before they are whole.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::live::Live;
use super::work::Planner;
use crate::ladder::Plan;
use crate::pool::{HeadStart, Pool};
use crate::segment::{Segment, Segmenter};

/// What a session has begun, by where in the input its segment begins.
#[derive(Default)]
pub(super) struct Ahead {
    begun: VecDeque<(u64, HeadStart)>,
    /// Such segments have to be whole, as one of them has shown.
    vain: Arc<AtomicBool>,
    /// What was begun of the segment that begins there was given up.
    given_up: Option<u64>,
}

impl Ahead {
    /// Goes on with what has come of the next segment, or begins with it, where nobody else needs the worker.
    pub fn go_on(
        &mut self,
        (pool, live): (&Pool, &Live<'_>),
        plan: &Plan,
        planner: &mut Planner,
        segmenter: &Segmenter,
    ) {
        if self.vain.load(Ordering::Relaxed) {
            return;
        }
        let Some(foreseen) = segmenter.foreseen() else { return };
        let Some(first) = foreseen.units(0).next().map(|unit| unit.offset) else { return };
        if self.given_up == Some(first) {
            return;
        }
        if self.begun.back().is_none_or(|(begins, _)| *begins != first) {
            if !pool.has_idle_workers() || !live.is_at_ease() {
                return;
            }
            // If not, perhaps with the next unit.
            let begun = planner.draft(plan, foreseen.start).and_then(|draft| pool.begin(draft, &self.vain));
            let Some(begun) = begun else { return };
            self.begun.push_back((first, begun));
        }
        let Some((_, begun)) = self.begun.back_mut() else { return };
        if begun.is_given_up() {
            self.begun.pop_back();
            self.given_up = Some(first);
            return;
        }
        foreseen.units(begun.known()).for_each(|unit| begun.push(unit.clone()));
    }

    /// What has been begun of a segment that is whole now. What was begun before it is given up.
    pub fn take(&mut self, segment: &Segment) -> Option<HeadStart> {
        let first = segment.video.as_ref()?.all().next()?.offset;
        let at = self.begun.iter().position(|(begins, _)| *begins == first)?;
        self.begun.drain(..=at).next_back().map(|(_, begun)| begun)
    }
}
