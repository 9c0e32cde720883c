//! HLS playlists (RFC 8216) of what came back: values in, text out. Files are `store`'s.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::protocol::{DegradedWhat, InitHeader, OutputContainer, OutputInfo, Receipt, SegmentHeader, SegmentOutcome};

/// All outputs of a session.
#[derive(Debug, Default)]
pub struct Presentation {
    pub renditions: BTreeMap<String, Rendition>,
}

/// One output: what its playlists need to know of it.
#[derive(Debug, Default)]
pub struct Rendition {
    info: Option<OutputInfo>,
    /// All that were in the `codecs` parameter of an init.
    codecs: Option<String>,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    seq: u64,
    init: Option<u32>,
    duration: i64,
    timescale: u32,
    frames: u64,
    bytes: u64,
    discontinuity: bool,
    /// There is no media: a rung that was left out, or a segment that failed.
    gap: bool,
}

impl Presentation {
    /// What the service says of its outputs.
    pub fn outputs(&mut self, outputs: &[OutputInfo]) {
        for output in outputs {
            self.renditions.entry(output.name.clone()).or_default().info = Some(output.clone());
        }
    }

    pub fn init(&mut self, init: &InitHeader) {
        let Some((_, codecs)) = init.mime.split_once("codecs=") else { return };
        let known = &mut self.renditions.entry(init.output.clone()).or_default().codecs;
        for codec in codecs.trim_matches('"').split(',') {
            match known {
                Some(known) if known.split(',').any(|other| other == codec) => {}
                Some(known) => *known = format!("{known},{codec}"),
                None => *known = Some(codec.to_owned()),
            }
        }
    }

    /// Forgets all segments after `seq`: they come again.
    pub fn go_back_to(&mut self, seq: u64) {
        self.renditions.values_mut().for_each(|rendition| rendition.entries.retain(|entry| entry.seq <= seq));
    }

    pub fn segment(&mut self, segment: &SegmentHeader) {
        let rendition = self.renditions.entry(segment.output.clone()).or_default();
        let other_init = rendition.played().last().is_some_and(|last| last.init != segment.init);
        let broken = rendition
            .entries
            .last()
            .is_some_and(|last| other_init || last.seq.checked_add(1) != Some(segment.seq) || segment.discontinuity);
        rendition.entries.push(Entry {
            seq: segment.seq,
            init: segment.init,
            duration: segment.duration.max(0),
            timescale: segment.timescale.max(1),
            frames: segment.frames,
            bytes: segment.bytes,
            discontinuity: broken,
            gap: false,
        });
    }

    /// All of a segment has come: what is missing in it is a gap. The files that stand for the gaps, by output; they are
    /// to be empty, for players that don't know the tag and open them.
    pub fn receipt(&mut self, receipt: &Receipt) -> Vec<(String, String)> {
        let seq = receipt.seq;
        let left_out = |name: &str| {
            let mut said = receipt.degraded.iter();
            said.any(|said| said.what == DegradedWhat::RungLeftOut && said.output == name)
        };
        let failed = receipt.outcome == SegmentOutcome::Failed;
        // To the tick where the pictures of another output tell it.
        let here = self.renditions.values().filter(|rendition| rendition.has_video());
        let told = here.filter_map(|rendition| rendition.played().last()).find(|entry| entry.seq == seq);
        let (duration, timescale) = told.map_or((receipt.duration_ms, 1000), |it| (it.duration, it.timescale));
        let mut files = Vec::new();
        for (name, rendition) in &mut self.renditions {
            let there = rendition.entries.last().is_some_and(|last| last.seq >= seq);
            if there || !(failed || left_out(name)) {
                continue;
            }
            let (duration, discontinuity) = (duration.max(0), false);
            let gap = Entry { seq, init: None, duration, timescale, frames: 0, bytes: 0, discontinuity, gap: true };
            rendition.entries.push(gap);
            files.push((name.clone(), segment_file(seq, rendition.is_cmaf())));
        }
        files
    }

    /// The master playlist; None while there is nothing to play.
    pub fn master(&self) -> Option<String> {
        let playable = || self.renditions.iter().filter(|(_, rendition)| rendition.is_playable());
        let groups = self.audio_groups();
        let mut text = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-INDEPENDENT-SEGMENTS\n".to_owned();
        for (group, (_, members)) in groups.iter().enumerate() {
            for (place, (name, rendition)) in members.iter().enumerate() {
                let default = if place == 0 { "YES" } else { "NO" };
                let channels = rendition.info.as_ref().and_then(|info| info.audio.as_ref()).map(|audio| audio.channels);
                let channels = channels.map(|channels| format!(",CHANNELS=\"{channels}\"")).unwrap_or_default();
                writeln!(
                    text,
                    "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"audio{group}\",NAME=\"{name}\",DEFAULT={default},AUTOSELECT=YES{channels},URI=\"{name}/media.m3u8\""
                )
                .expect("a String takes all");
            }
        }
        let mut any = false;
        let with_picture = playable().any(|(_, rendition)| rendition.has_video());
        for (name, rendition) in playable().filter(|(_, rendition)| rendition.has_video() == with_picture) {
            any = true;
            if !with_picture || rendition.has_audio() || groups.is_empty() {
                rendition.variant(&mut text, name, None);
            } else {
                for (group, (_, members)) in groups.iter().enumerate() {
                    rendition.variant(&mut text, name, Some((group, members)));
                }
            }
        }
        any.then_some(text)
    }

    /// The outputs that are sound alone, by their codec: all members of a group must play in the same decoder. None
    /// where there is no picture for them to go with.
    fn audio_groups(&self) -> Vec<(String, Vec<Member<'_>>)> {
        let mut groups: Vec<(String, Vec<Member<'_>>)> = Vec::new();
        let video = self.renditions.values().any(|rendition| rendition.has_video() && rendition.is_playable());
        for (name, rendition) in self.renditions.iter().filter(|_| video) {
            if rendition.has_video() || !rendition.is_playable() {
                continue;
            }
            let codecs = rendition.codecs().unwrap_or_default();
            match groups.iter_mut().find(|(group, _)| *group == codecs) {
                Some((_, members)) => members.push((name, rendition)),
                None => groups.push((codecs, vec![(name, rendition)])),
            }
        }
        groups
    }
}

type Member<'a> = (&'a String, &'a Rendition);

impl Rendition {
    /// The media playlist: so far, or of the whole.
    pub fn media(&self, ended: bool) -> String {
        let longest =
            self.entries.iter().map(|entry| entry.duration.cast_unsigned().div_ceil(u64::from(entry.timescale)));
        let mut text = format!(
            "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:{}\n#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-PLAYLIST-TYPE:{}\n",
            longest.max().unwrap_or(1).max(1),
            if ended { "VOD" } else { "EVENT" },
        );
        let mut clock = Clock::default();
        let mut init = None;
        for entry in &self.entries {
            if entry.discontinuity {
                text.push_str("#EXT-X-DISCONTINUITY\n");
            }
            if let Some(id) = entry.init.filter(|id| init != Some(*id)) {
                init = Some(id);
                writeln!(text, "#EXT-X-MAP:URI=\"{}\"", init_file(id)).expect("a String takes all");
            }
            let micros = clock.advance(entry.duration, entry.timescale);
            let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
            if entry.gap {
                text.push_str("#EXT-X-GAP\n");
            }
            writeln!(text, "#EXTINF:{seconds}.{micros:06},\n{}", segment_file(entry.seq, self.is_cmaf()))
                .expect("a String takes all");
        }
        if ended {
            text.push_str("#EXT-X-ENDLIST\n");
        }
        text
    }

    /// The segments that have media.
    fn played(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.iter().filter(|entry| !entry.gap)
    }

    fn is_playable(&self) -> bool {
        self.played().next().is_some()
    }

    fn is_cmaf(&self) -> bool {
        match self.played().next() {
            Some(entry) => entry.init.is_some(),
            None => self.info.as_ref().is_none_or(|info| info.container == OutputContainer::Cmaf),
        }
    }

    fn has_video(&self) -> bool {
        match (&self.info, &self.codecs) {
            (Some(info), _) => info.video.is_some(),
            (None, Some(codecs)) => {
                let video = ["avc", "hvc", "hev", "vp0", "av01"];
                codecs.split(',').any(|codec| video.iter().any(|kind| codec.trim().starts_with(kind)))
            }
            (None, None) => true,
        }
    }

    fn has_audio(&self) -> bool {
        self.info.as_ref().is_some_and(|info| info.audio.is_some())
    }

    /// RFC 6381, where it is known: TS has no init that would say it.
    fn codecs(&self) -> Option<String> {
        if self.codecs.is_some() {
            return self.codecs.clone();
        }
        let info = self.info.as_ref().filter(|info| info.container == OutputContainer::Ts)?;
        let codecs = [info.video.as_ref().map(|video| &video.codec), info.audio.as_ref().map(|audio| &audio.codec)];
        let codecs: Vec<_> = codecs.into_iter().flatten().map(String::as_str).collect();
        codecs.iter().all(|codec| codec.contains('.')).then(|| codecs.join(","))
    }

    fn variant(&self, text: &mut String, name: &str, audio: Option<(usize, &[Member<'_>])>) {
        let members = audio.map_or(&[][..], |(_, members)| members);
        let sound = |rate: fn(&Rendition) -> u64| members.iter().map(|(_, member)| rate(member)).max().unwrap_or(0);
        let peak = self.peak_rate().saturating_add(sound(Self::peak_rate));
        let average = self.average_rate().saturating_add(sound(Self::average_rate));
        let mut line = format!("#EXT-X-STREAM-INF:BANDWIDTH={peak},AVERAGE-BANDWIDTH={average}");
        let sound_codecs = members.first().map(|(_, member)| member.codecs());
        let codecs = match (self.codecs(), sound_codecs) {
            (Some(own), None) => Some(own),
            (Some(own), Some(Some(sound))) => Some(format!("{own},{sound}")),
            _ => None,
        };
        if let Some(codecs) = codecs.filter(|codecs| !codecs.contains(['"', '\n', '\r'])) {
            write!(line, ",CODECS=\"{codecs}\"").expect("a String takes all");
        }
        if let Some(video) = self.info.as_ref().and_then(|info| info.video.as_ref()) {
            write!(line, ",RESOLUTION={}x{}", video.width, video.height).expect("a String takes all");
            if let Some(milli) = self.frame_rate_milli() {
                write!(line, ",FRAME-RATE={}.{:03}", milli / 1000, milli % 1000).expect("a String takes all");
            }
        }
        if let Some((group, _)) = audio {
            write!(line, ",AUDIO=\"audio{group}\"").expect("a String takes all");
        }
        writeln!(text, "{line}\n{name}/media.m3u8").expect("a String takes all");
    }

    /// Bits a second of the densest segment that is at least half as long as the longest (RFC 8216 4.3.4.2).
    fn peak_rate(&self) -> u64 {
        let micros = |entry: &Entry| Clock::default().advance(entry.duration, entry.timescale);
        let longest = self.played().map(micros).max().unwrap_or(0);
        let long = self.played().filter(|entry| micros(entry) >= longest / 2);
        long.map(|entry| bit_rate(entry.bytes, micros(entry))).max().unwrap_or(0)
    }

    fn average_rate(&self) -> u64 {
        bit_rate(self.played().map(|entry| entry.bytes).fold(0, u64::saturating_add), self.micros())
    }

    fn micros(&self) -> u64 {
        let mut clock = Clock::default();
        self.played().map(|entry| clock.advance(entry.duration, entry.timescale)).fold(0, u64::saturating_add)
    }

    /// Thousandths of a frame a second, on average.
    fn frame_rate_milli(&self) -> Option<u64> {
        let frames = u128::from(self.played().map(|entry| entry.frames).fold(0, u64::saturating_add));
        let micros = u128::from(self.micros());
        let milli = (frames * 1_000_000_000 + micros / 2).checked_div(micros)?;
        u64::try_from(milli).ok().filter(|milli| *milli > 0)
    }
}

fn bit_rate(bytes: u64, micros: u64) -> u64 {
    let rate = (u128::from(bytes) * 8_000_000).div_ceil(u128::from(micros.max(1)));
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// Durations in whole microseconds whose sum stays true: each reaches from one rounded moment to the next.
#[derive(Default)]
struct Clock {
    ticks: u64,
    timescale: u32,
    /// Where `ticks` began to be counted in `timescale`.
    base: u64,
}

impl Clock {
    fn advance(&mut self, duration: i64, timescale: u32) -> u64 {
        let before = self.now();
        if timescale != self.timescale {
            (self.base, self.ticks, self.timescale) = (before, 0, timescale);
        }
        self.ticks = self.ticks.saturating_add(duration.max(0).cast_unsigned());
        self.now().saturating_sub(before)
    }

    fn now(&self) -> u64 {
        let timescale = u128::from(self.timescale.max(1));
        let micros = (u128::from(self.ticks) * 1_000_000 + timescale / 2) / timescale;
        self.base.saturating_add(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

/// Name of an init segment's file.
pub fn init_file(id: u32) -> String {
    format!("init-{id}.mp4")
}

/// Name of a segment's file; CMAF where it has an init, else TS.
pub fn segment_file(seq: u64, cmaf: bool) -> String {
    format!("{seq:06}.{}", if cmaf { "m4s" } else { "ts" })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::protocol::{AudioInfo, VideoInfo};

    fn segment(output: &str, seq: u64, init: Option<u32>, duration: i64, timescale: u32, bytes: u64) -> SegmentHeader {
        SegmentHeader {
            seq,
            output: output.into(),
            init,
            start: 0,
            duration,
            timescale,
            frames: 50,
            bytes,
            sha256: String::new(),
            independent: true,
            discontinuity: false,
        }
    }

    fn init(output: &str, id: u32, mime: &str) -> InitHeader {
        InitHeader { output: output.into(), id, mime: mime.into(), timescale: 90_000 }
    }

    fn output(name: &str, video: Option<(u32, u32)>, audio: bool, container: OutputContainer) -> OutputInfo {
        OutputInfo {
            name: name.into(),
            container,
            video: video.map(|(width, height)| VideoInfo { codec: "h264".into(), width, height, copied: false }),
            audio: audio.then(|| AudioInfo {
                codec: "mp4a.40.2".into(),
                sample_rate: 48_000,
                channels: 2,
                copied: false,
            }),
        }
    }

    #[test]
    fn a_media_playlist_is_exact_and_says_where_it_breaks() {
        let mut presentation = Presentation::default();
        presentation.segment(&segment("v", 1, Some(1), 60_060, 30_000, 10));
        presentation.segment(&segment("v", 2, Some(1), 45_045, 30_000, 10));
        let expected = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:3\n#EXT-X-MEDIA-SEQUENCE:0\n\
            #EXT-X-PLAYLIST-TYPE:EVENT\n#EXT-X-MAP:URI=\"init-1.mp4\"\n#EXTINF:2.002000,\n000001.m4s\n\
            #EXTINF:1.501500,\n000002.m4s\n";
        assert_eq!(presentation.renditions["v"].media(false), expected);

        presentation.segment(&segment("v", 3, Some(2), 30_000, 30_000, 10));
        presentation.segment(&SegmentHeader { discontinuity: true, ..segment("v", 4, Some(2), 30_000, 30_000, 10) });
        presentation.segment(&segment("v", 6, Some(2), 30_000, 30_000, 10));
        let tail = "#EXTINF:1.501500,\n000002.m4s\n\
            #EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI=\"init-2.mp4\"\n#EXTINF:1.000000,\n000003.m4s\n\
            #EXT-X-DISCONTINUITY\n#EXTINF:1.000000,\n000004.m4s\n\
            #EXT-X-DISCONTINUITY\n#EXTINF:1.000000,\n000006.m4s\n#EXT-X-ENDLIST\n";
        let whole = presentation.renditions["v"].media(true);
        assert!(whole.contains("TYPE:VOD\n") && whole.ends_with(tail), "{whole}");
    }

    fn receipt(seq: u64, degraded: &[(&str, DegradedWhat)], outcome: SegmentOutcome) -> Receipt {
        let degraded: Vec<_> = degraded
            .iter()
            .map(|(output, what)| json!({"output": output, "what": what.name(), "why": "late"}))
            .collect();
        serde_json::from_value(json!({"seq": seq, "start_ms": 0, "duration_ms": 1501, "frames_in": 1, "frames_out": {},
            "audio_samples": {}, "queued_ms": 0, "transcode_ms": 0, "latency_ms": 0, "cpu_ms": 0, "attempts": 1,
            "outcome": outcome, "degraded": degraded}))
        .unwrap()
    }

    #[test]
    fn what_was_left_out_or_failed_is_a_gap_of_its_length() {
        use DegradedWhat::{Preset, RungLeftOut};
        use SegmentOutcome::{Degraded, Failed};
        let mut presentation = Presentation::default();
        presentation.outputs(&[
            output("v", Some((1280, 720)), false, OutputContainer::Cmaf),
            output("w", Some((640, 360)), false, OutputContainer::Ts),
            output("x", Some((320, 180)), false, OutputContainer::Cmaf),
        ]);
        let parts = [("v", RungLeftOut), ("w", Preset), ("x", RungLeftOut)];
        for seq in 1..=4 {
            if seq != 2 && seq != 3 {
                presentation.segment(&segment("v", seq, Some(1), 45_045, 30_000, 1000));
            }
            if seq != 3 {
                presentation.segment(&segment("w", seq, None, 45_045, 30_000, 10));
            }
            let left_out = if seq == 2 { &parts[..] } else { &parts[2..] };
            let files = presentation.receipt(&receipt(seq, left_out, if seq == 3 { Failed } else { Degraded }));
            let names: Vec<_> = files.iter().map(|(name, file)| format!("{name}/{file}")).collect();
            let expect = match seq {
                2 => "v/000002.m4s x/000002.m4s",
                3 => "v/000003.m4s w/000003.ts x/000003.m4s",
                1 => "x/000001.m4s",
                _ => "x/000004.m4s",
            };
            assert_eq!(names.join(" "), expect);
        }
        let tail = "#EXT-X-MAP:URI=\"init-1.mp4\"\n#EXTINF:1.501500,\n000001.m4s\n#EXT-X-GAP\n#EXTINF:1.501500,\n\
            000002.m4s\n#EXT-X-GAP\n#EXTINF:1.501000,\n000003.m4s\n#EXTINF:1.501500,\n000004.m4s\n#EXT-X-ENDLIST\n";
        let whole = presentation.renditions["v"].media(true);
        assert!(whole.ends_with(tail), "{whole}");
        let master = presentation.master().unwrap();
        // Half of its segments are gaps, which count for no rate.
        assert!(
            master.contains("BANDWIDTH=5329,AVERAGE-BANDWIDTH=5329,") && master.contains("v/media.m3u8"),
            "{master}"
        );
        assert!(!master.contains("x/media.m3u8"), "all of it is a gap: {master}");
        // It comes again, and this time whole.
        presentation.go_back_to(1);
        presentation.segment(&segment("v", 2, Some(2), 45_045, 30_000, 1000));
        presentation.receipt(&receipt(2, &[], Degraded));
        let whole = presentation.renditions["v"].media(true);
        assert!(
            whole.contains("#EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI=\"init-2.mp4\"\n") && !whole.contains("GAP"),
            "{whole}"
        );
    }

    #[test]
    fn the_codecs_of_all_inits_are_told() {
        let mut presentation = Presentation::default();
        for (id, codecs) in [(1, "avc1.64001f,mp4a.40.2"), (2, "avc1.640028,mp4a.40.2"), (3, "avc1.64001f,mp4a.40.2")] {
            presentation.init(&init("v", id, &format!("video/mp4; codecs=\"{codecs}\"")));
        }
        assert_eq!(presentation.renditions["v"].codecs().as_deref(), Some("avc1.64001f,mp4a.40.2,avc1.640028"));
    }

    #[test]
    fn ffmpeg_reads_across_a_gap_without_a_word() {
        let dir = tempfile::tempdir().unwrap();
        let run = |arguments: &str| {
            let arguments = arguments.replace("DIR", dir.path().to_str().unwrap());
            let output = std::process::Command::new("ffmpeg").args(arguments.split_whitespace()).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            output
        };
        run("-v error -f lavfi -i testsrc2=s=64x48:r=25:d=4 -c:v libx264 -g 25 -keyint_min 25 -sc_threshold 0 \
            -f hls -hls_time 1 -hls_segment_type fmp4 -hls_fmp4_init_filename init-1.mp4 -hls_list_size 0 \
            -start_number 1 -hls_segment_filename DIR/%06d.m4s DIR/theirs.m3u8");
        for lost in 1..=4 {
            let mut presentation = Presentation::default();
            presentation.outputs(&[output("v", Some((64, 48)), false, OutputContainer::Cmaf)]);
            let mut kept = Vec::new();
            for seq in 1..=4 {
                let outcome = if seq == lost { SegmentOutcome::Failed } else { SegmentOutcome::Ok };
                if seq != lost {
                    presentation.segment(&segment("v", seq, Some(1), 25, 25, 10));
                }
                for (_, file) in presentation.receipt(&receipt(seq, &[], outcome)) {
                    let path = dir.path().join(file);
                    kept.push((path.clone(), std::fs::read(&path).unwrap()));
                    std::fs::write(path, b"").unwrap();
                }
            }
            std::fs::write(dir.path().join("media.m3u8"), presentation.renditions["v"].media(true)).unwrap();
            let read = run("-v warning -nostdin -i DIR/media.m3u8 -map 0 -f framemd5 -");
            assert_eq!(String::from_utf8_lossy(&read.stderr), "");
            let frames = String::from_utf8_lossy(&read.stdout).lines().filter(|line| !line.starts_with('#')).count();
            assert_eq!(frames, 75, "without segment {lost}");
            for (path, bytes) in kept {
                std::fs::write(path, bytes).unwrap();
            }
        }
    }

    #[test]
    fn rounded_durations_add_up() {
        let mut clock = Clock::default();
        let micros: Vec<_> = (0..3).map(|_| clock.advance(1, 3)).collect();
        assert_eq!(micros, [333_333, 333_334, 333_333]);
        assert_eq!(clock.advance(1, 2), 500_000);
    }

    #[test]
    fn ts_has_no_map() {
        let mut presentation = Presentation::default();
        presentation.segment(&segment("v", 1, None, 90_000, 90_000, 10));
        let text = presentation.renditions["v"].media(true);
        assert!(text.contains("#EXTINF:1.000000,\n000001.ts\n") && !text.contains("MAP"), "{text}");
    }

    #[test]
    fn the_master_playlist_joins_pictures_and_sound() {
        let mut presentation = Presentation::default();
        presentation.outputs(&[
            output("720p", Some((1280, 720)), false, OutputContainer::Cmaf),
            output("audio", None, true, OutputContainer::Cmaf),
            output("tv", Some((640, 360)), true, OutputContainer::Ts),
        ]);
        assert_eq!(presentation.master(), None);
        presentation.init(&init("720p", 1, "video/mp4; codecs=\"avc1.64001f\""));
        presentation.init(&init("audio", 1, "audio/mp4; codecs=\"mp4a.40.2\""));
        for seq in 1..=2 {
            presentation.segment(&segment("720p", seq, Some(1), 180_000, 90_000, 250_000 * seq));
            presentation.segment(&segment("audio", seq, Some(1), 96_000, 48_000, 32_000));
            presentation.segment(&segment("tv", seq, None, 180_000, 90_000, 100_000));
        }
        presentation.segment(&segment("720p", 3, Some(1), 3600, 90_000, 100_000));
        let expected = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-INDEPENDENT-SEGMENTS\n\
            #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"audio0\",NAME=\"audio\",DEFAULT=YES,AUTOSELECT=YES,CHANNELS=\"2\",URI=\"audio/media.m3u8\"\n\
            #EXT-X-STREAM-INF:BANDWIDTH=2128000,AVERAGE-BANDWIDTH=1811169,CODECS=\"avc1.64001f,mp4a.40.2\",RESOLUTION=1280x720,FRAME-RATE=37.129,AUDIO=\"audio0\"\n\
            720p/media.m3u8\n\
            #EXT-X-STREAM-INF:BANDWIDTH=400000,AVERAGE-BANDWIDTH=400000,RESOLUTION=640x360,FRAME-RATE=25.000\n\
            tv/media.m3u8\n";
        assert_eq!(presentation.master().unwrap(), expected);
    }

    #[test]
    fn sound_alone_is_its_own_variant() {
        let mut presentation = Presentation::default();
        presentation.outputs(&[output("audio", None, true, OutputContainer::Cmaf)]);
        presentation.init(&init("audio", 1, "audio/mp4; codecs=\"opus\""));
        presentation.segment(&segment("audio", 1, Some(1), 48_000, 48_000, 16_000));
        let expected = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-INDEPENDENT-SEGMENTS\n\
            #EXT-X-STREAM-INF:BANDWIDTH=128000,AVERAGE-BANDWIDTH=128000,CODECS=\"opus\"\naudio/media.m3u8\n";
        assert_eq!(presentation.master().unwrap(), expected);
    }
}
