//! Sizes and durations as people write them in flags and TOML: `4GiB`, `512MiB`, `30s`, `5m`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

/// A number of bytes. Suffixes are binary (`KiB MiB GiB TiB`, also `K M G T`) or decimal (`KB MB GB TB`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

const SIZE_SUFFIXES: &[(&str, u64)] = &[
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
    ("t", 1 << 40),
    ("b", 1),
    ("", 1),
];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split_unit(text);
        let scale = SIZE_SUFFIXES.iter().find(|(suffix, _)| *suffix == unit).map(|(_, scale)| *scale);
        match (parse_number(number), scale) {
            (Some(n), Some(scale)) if n * scale as f64 <= i64::MAX as f64 => Ok(Self((n * scale as f64) as u64)),
            _ => Err(format!("`{text}` is not a size; write bytes or a number with KiB, MiB, GiB or TiB, like 4GiB")),
        }
    }
}

impl fmt::Display for ByteSize {
    /// The largest binary unit that needs at most one decimal to be exact, else bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            let size = 1u64 << shift;
            if self.0 >= size && self.0.is_multiple_of(size) {
                return write!(f, "{}{unit}", self.0 / size);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl ByteSize {
    /// For messages: two significant decimals, rounded.
    pub fn approx(self) -> String {
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 >= 1u64 << shift {
                return format!("{:.2} {unit}", self.0 as f64 / (1u64 << shift) as f64);
            }
        }
        format!("{} B", self.0)
    }
}

/// A duration: seconds, or a number with `ms`, `s`, `m` or `h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(pub Duration);

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split_unit(text);
        let scale = match unit.as_str() {
            "ms" => Some(0.001),
            "s" | "" => Some(1.0),
            "m" => Some(60.0),
            "h" => Some(3600.0),
            _ => None,
        };
        // Ten years: far beyond any use, and far below what a clock can add.
        match (parse_number(number), scale) {
            (Some(n), Some(scale)) if n > 0.0 && n * scale < 0.001 => {
                Err(format!("`{text}` is less than a millisecond; give 1ms or more, or 0"))
            }
            (Some(n), Some(scale)) if n * scale <= 315_360_000.0 => Ok(Self(Duration::from_secs_f64(n * scale))),
            _ => Err(format!("`{text}` is not a duration; write seconds or a number with ms, s, m or h, like 90s")),
        }
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            ms if ms % 1000 == 0 => write!(f, "{}s", ms / 1000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

fn split_unit(text: &str) -> (&str, String) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim().to_ascii_lowercase())
}

fn parse_number(text: &str) -> Option<f64> {
    text.replace('_', "").parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0)
}

/// Reads a bare number or a string, for any type with `FromStr`.
struct NumberOrText<T>(std::marker::PhantomData<T>);

impl<T: FromStr<Err = String>> Visitor<'_> for NumberOrText<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or a string with a unit")
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<T, E> {
        v.to_string().parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<T, E> {
        v.to_string().parse().map_err(E::custom)
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<T, E> {
        v.to_string().parse().map_err(E::custom)
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<T, E> {
        v.parse().map_err(E::custom)
    }
}

/// `Deserialize` from a number or text, `Serialize` as text.
macro_rules! text_setting {
    ($type:ty) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                d.deserialize_any(NumberOrText(std::marker::PhantomData))
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
    };
}

text_setting!(ByteSize);
text_setting!(Seconds);
text_setting!(super::KvCacheMemory);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_that_would_read_as_none_is_refused() {
        assert!("0.0001".parse::<Seconds>().unwrap_err().contains("less than a millisecond"));
        assert_eq!("0".parse(), Ok(Seconds(Duration::ZERO)));
        assert_eq!("1ms".parse(), Ok(Seconds(Duration::from_millis(1))));
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("4GiB", 4 << 30),
            ("1.5 gib", 3 << 29),
            ("512M", 512 << 20),
            ("2GB", 2_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "GiB", "-1", "4 gigs", "1e3", "99999999TiB", "inf", "nan"] {
            let error = text.parse::<ByteSize>().unwrap_err();
            assert!(error.contains("like 4GiB"), "{text}: {error}");
        }
        for bytes in [0, 1, 1023, 4096, 3 << 29, 5 << 40] {
            assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }
    }

    #[test]
    fn durations() {
        for (text, ms) in [("0", 0), ("30", 30_000), ("250ms", 250), ("1.5s", 1500), ("5m", 300_000), ("1h", 3_600_000)]
        {
            assert_eq!(text.parse(), Ok(Seconds(Duration::from_millis(ms))), "{text}");
        }
        for text in ["", "s", "-3", "3 days", "1e300"] {
            assert!(text.parse::<Seconds>().is_err(), "{text}");
        }
    }
}
