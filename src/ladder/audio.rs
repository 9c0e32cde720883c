//! Which of the source's sound is meant, and what it is made into.

use super::{AudioTarget, Refused, missing, refuse};
use crate::media::{Audio, AudioCodec, Format, Track, language};
use crate::protocol::{AudioChoice, AudioRequest};

/// The audio track that is meant: `index` counts from 0 those that can be read; where a language is given too, both
/// have to hold. The first where nothing is given.
pub(super) fn choose<'a>(
    tracks: &'a [Track],
    index: Option<u32>,
    tag: Option<&str>,
) -> Result<(&'a Track, &'a Audio), Refused> {
    let audio = tracks.iter().filter_map(|track| match &track.format {
        Format::Audio(audio) => Some((track, audio)),
        _ => None,
    });
    let mut numbered = (0u32..).zip(audio).filter(|(number, _)| index.is_none_or(|index| index == *number));
    let spoken =
        |track: &Track| tag.is_none_or(|tag| track.language.as_deref().is_some_and(|own| language::matches(tag, own)));
    numbered.find(|(_, (track, _))| spoken(track)).map(|(_, found)| found).ok_or_else(|| {
        let number = index.map_or(String::new(), |index| format!(" {index}"));
        let tag = tag.map_or(String::new(), |tag| format!(" in {tag}"));
        missing("audio", format!("the source has no audio track{number}{tag}"), tracks)
    })
}

/// What the request makes of the source.
pub(super) fn target(request: &AudioRequest, source: &Audio) -> Result<AudioTarget, Refused> {
    let codec = if request.codec == AudioChoice::Opus { AudioCodec::Opus } else { AudioCodec::Aac };
    let channels = request.channels.unwrap_or(source.channels.clamp(1, 2));
    if !matches!(channels, 1 | 2 | 6) || (channels > 2 && codec == AudioCodec::Opus) {
        return refuse("bad_message", "channels is 1 or 2, or 6 for AAC");
    }
    if channels > source.channels.max(2) {
        return refuse("bad_message", format!("{channels} channels are more than the source has"));
    }
    const AAC_RATES: [u32; 9] = [16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 64_000, 88_200, 96_000];
    let sample_rate = match (codec, request.sample_rate) {
        (AudioCodec::Opus, None | Some(48_000)) => 48_000,
        (AudioCodec::Opus, Some(_)) => return refuse("bad_message", "Opus has 48000 samples a second"),
        (_, Some(rate)) if AAC_RATES.contains(&rate) => rate,
        (_, Some(rate)) => return refuse("bad_message", format!("AAC is not made at {rate} samples a second")),
        (_, None) if AAC_RATES.contains(&source.sample_rate) => source.sample_rate.min(48_000),
        (_, None) => 48_000,
    };
    let default = if codec == AudioCodec::Opus { 48 } else { 64 } * u32::from(channels);
    let kbps = request.kbps.unwrap_or(default);
    let most = if codec == AudioCodec::Opus { 256 } else { 288 } * u32::from(channels);
    if !(16..=most).contains(&kbps) {
        return refuse("bad_message", format!("kbps is 16 to {most} for {channels} channels"));
    }
    Ok(AudioTarget { codec, bit_rate: kbps * 1000, channels, sample_rate })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::media::{Timescale, TrackId};

    fn track(id: u32, language: Option<&str>) -> Track {
        let audio = Audio {
            codec: AudioCodec::Aac,
            config: Bytes::from_static(&[0x11, 0x90]),
            codec_string: "mp4a.40.2".into(),
            sample_rate: 48_000,
            channels: 2,
        };
        let timescale = Timescale::new(48_000).unwrap();
        Track { id: TrackId(id), timescale, language: language.map(str::to_owned), format: Format::Audio(audio) }
    }

    fn other(id: u32, language: &str) -> Track {
        let format = Format::Other { kind: "text".into(), codec: "tx3g".into() };
        Track { format, ..track(id, Some(language)) }
    }

    #[test]
    fn a_track_is_chosen_by_its_number_its_language_or_both() {
        let tracks =
            [other(1, "ger"), track(2, Some("eng")), track(3, Some("ger")), track(4, None), track(5, Some("deu"))];
        let chosen =
            |index, tag| choose(&tracks, index, tag).map(|(track, _)| track.id.0).map_err(|refused| refused.message);
        assert_eq!(chosen(None, None), Ok(2));
        assert_eq!(chosen(Some(2), None), Ok(4));
        assert_eq!(chosen(None, Some("de")), Ok(3));
        assert_eq!(chosen(Some(3), Some("de")), Ok(5));
        assert_eq!(chosen(None, Some("en")), Ok(2));
        assert_eq!(chosen(Some(4), None), Err("the source has no audio track 4".into()));
        assert_eq!(chosen(None, Some("fr")), Err("the source has no audio track in fr".into()));
        assert_eq!(chosen(Some(0), Some("de")), Err("the source has no audio track 0 in de".into()));
        assert_eq!(choose(&tracks, Some(9), None).unwrap_err().code, "no_such_track");
    }
}
