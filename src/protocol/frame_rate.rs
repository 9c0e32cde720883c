//! A frame rate as clients write it.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Frames a second, 1 to 240, as a fraction in lowest terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameRate {
    frames: u32,
    seconds: u32,
}

impl FrameRate {
    /// None outside 1 to 240, and where lowest terms have a part over a million.
    pub fn new(frames: u64, seconds: u64) -> Option<Self> {
        const MOST: u64 = 240;
        const LARGEST: u64 = 1_000_000;
        let (mut a, mut b) = (frames, seconds);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        let (frames, seconds) = (frames.checked_div(a)?, seconds.checked_div(a)?);
        let sane = seconds > 0 && frames >= seconds && frames.div_ceil(seconds) <= MOST;
        let small = frames.max(seconds) <= LARGEST;
        (sane && small).then_some(Self { frames: frames as u32, seconds: seconds as u32 })
    }

    /// Frames, and in how many seconds.
    pub fn parts(self) -> (u32, u32) {
        (self.frames, self.seconds)
    }

    /// `25`, `29.97` (30000/1001, as all that lies within 0.005 of a whole rate over 1.001), `12.5` or `30000/1001`.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = |text: &str| (1..=9).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = |text: &str| digits(text).then(|| text.parse::<u64>().ok()).flatten();
        if let Some((frames, seconds)) = text.split_once('/') {
            return Self::new(number(frames)?, number(seconds)?);
        }
        let Some((whole, decimals)) = text.split_once('.') else { return Self::new(number(text)?, 1) };
        const MILLIONTHS: u64 = 1_000_000;
        if decimals.len() > 6 {
            return None;
        }
        let part = number(decimals)? * 10u64.pow(6 - decimals.len() as u32);
        let millionths = number(whole)?.checked_mul(MILLIONTHS)? + part;
        let nominal = (millionths * 1001 / 1000 + MILLIONTHS / 2) / MILLIONTHS;
        let exact = nominal * MILLIONTHS * 1000 / 1001;
        if part != 0 && exact.abs_diff(millionths) < 5_000 {
            return Self::new(nominal * 1000, 1001);
        }
        Self::new(millionths, MILLIONTHS)
    }
}

impl Serialize for FrameRate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.seconds {
            1 => serializer.serialize_u32(self.frames),
            seconds => serializer.serialize_str(&format!("{}/{seconds}", self.frames)),
        }
    }
}

impl<'de> Deserialize<'de> for FrameRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = FrameRate;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("frames a second from 1 to 240: 25, 29.97 or \"30000/1001\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<FrameRate, E> {
                FrameRate::parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }

            fn visit_u64<E: de::Error>(self, frames: u64) -> Result<FrameRate, E> {
                FrameRate::new(frames, 1).ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(frames), &self))
            }

            fn visit_f64<E: de::Error>(self, frames: f64) -> Result<FrameRate, E> {
                FrameRate::parse(&frames.to_string())
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Float(frames), &self))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

impl JsonSchema for FrameRate {
    fn schema_name() -> Cow<'static, str> {
        "FrameRate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Frames a second: a number (29.97 is 30000/1001), or a fraction as a string.",
            "anyOf": [
                {"type": "number", "minimum": 1, "maximum": 240},
                {"type": "string", "pattern": "^[0-9]+(/[0-9]+|\\.[0-9]+)?$"}
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_they_are_written_and_exactly() {
        let cases = [
            ("25", Some((25, 1))),
            ("29.97", Some((30_000, 1001))),
            ("23.976", Some((24_000, 1001))),
            ("23.98", Some((24_000, 1001))),
            ("59.94", Some((60_000, 1001))),
            ("119.88", Some((120_000, 1001))),
            ("\"30000/1001\"", Some((30_000, 1001))),
            ("\"50/2\"", Some((25, 1))),
            ("\"12.5\"", Some((25, 2))),
            ("12.5", Some((25, 2))),
            ("30.0", Some((30, 1))),
            ("1", Some((1, 1))),
            ("240", Some((240, 1))),
            ("0", None),
            ("0.5", None),
            ("240.1", None),
            ("241", None),
            ("-25", None),
            ("1e300", None),
            ("\"25/0\"", None),
            ("\"0/0\"", None),
            ("\"+25\"", None),
            ("\"99999999999999999999\"", None),
            ("\"1000001/999983\"", None),
            ("\"\"", None),
            ("null", None),
            ("[25]", None),
        ];
        for (json, expected) in cases {
            let read = serde_json::from_str::<FrameRate>(json).ok();
            assert_eq!(read.map(FrameRate::parts), expected, "{json}");
            if let Some(rate) = read {
                let written = serde_json::to_string(&rate).unwrap();
                assert_eq!(serde_json::from_str::<FrameRate>(&written).ok(), Some(rate), "{written}");
            }
        }
    }
}
