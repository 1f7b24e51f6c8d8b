//! The helpers that transformers gives chat templates.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use super::python;

/// Marks a message raised by the template itself, to be told to the client as it stands.
pub(super) const RAISED: &str = "\u{1}";

/// Registers `raise_exception`, `tojson`, `string`, and `iterable` as Python means it: nothing (None) isn't.
pub(super) fn register(env: &mut Environment<'static>) {
    env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
    });
    env.add_filter("tojson", tojson);
    env.add_filter("string", |state: &State, value: Value| python::to_text(&value, state));
    env.add_test("iterable", |value: &Value| {
        !matches!(value.kind(), ValueKind::None | ValueKind::Bool | ValueKind::Number)
    });
}

/// Methods of Python's types: minijinja's, and `title` as Python does it (a letter after anything
/// but a letter is a capital).
pub(super) fn python_method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match (value.as_str(), name, args) {
        (Some(text), "title", []) => {
            let mut title = String::with_capacity(text.len());
            let mut inside = false;
            for c in text.chars() {
                if inside {
                    title.extend(c.to_lowercase())
                } else {
                    title.extend(c.to_uppercase())
                }
                inside = c.is_alphabetic();
            }
            Ok(Value::from(title))
        }
        (Some(text), "format", _) if has_wide_field(text) => {
            Err(Error::new(ErrorKind::InvalidOperation, "format: a field is wider than is allowed"))
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// A width of five digits, or one taken from an argument: padding isn't paid for in fuel.
fn has_wide_field(format: &str) -> bool {
    format.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 4) || format.contains(":{")
}

/// Registers `strftime_now` with the given time.
pub(super) fn set_clock(env: &mut Environment<'static>, now: Option<SystemTime>) {
    env.add_function("strftime_now", move |format: String| -> String {
        let now = now.unwrap_or_else(SystemTime::now);
        let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        strftime(&format, seconds)
    });
}

/// `json.dumps(x, ensure_ascii=False, indent=.., separators=.., sort_keys=..)`.
fn tojson(state: &State, value: Value, indent: Option<usize>, kwargs: Kwargs) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => kwargs.get::<Option<usize>>("indent")?,
    };
    let ensure_ascii = kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort_keys = kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let separators = kwargs.get::<Option<Vec<String>>>("separators")?;
    kwargs.assert_all_used()?;
    let style = python::JsonStyle::new(indent, separators, ensure_ascii, sort_keys);
    let mut writer = python::JsonWriter { style, state, out: String::new() };
    writer.write(&value, 0)?;
    Ok(writer.out)
}

/// Turns `{% generation %}` blocks, which only mark text for training, into blocks without effect,
/// keeping their whitespace control.
pub(super) fn without_generation_tags(source: &str) -> String {
    let mut output = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        output.push_str(before);
        let Some(len) = tag.find("%}").map(|i| i + 2) else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(len);
        let inner = tag.trim_start_matches("{%").trim_end_matches("%}");
        let name = inner.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        match name {
            "generation" => output.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => output.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => output.push_str(tag),
        }
        rest = after;
    }
    output.push_str(rest);
    output
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// Civil date of a day count since 1970-01-01 (Hinnant, "chrono-compatible low-level date
/// algorithms"): year, month 1..=12, day 1..=31.
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

/// C's `strftime` in UTC and English, for the directives that templates use; others stay.
fn strftime(format: &str, seconds: u64) -> String {
    let days = (seconds / 86_400) as i64;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let (year, month, day) = civil(days);
    let month_name = MONTHS.get(month as usize - 1).copied().unwrap_or_default();
    let day_name = DAYS.get((days + 3).rem_euclid(7) as usize).copied().unwrap_or_default();
    let hour12 = if hour % 12 == 0 { 12 } else { hour % 12 };
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let bare = chars.next_if_eq(&'-').is_some();
        let pad = |n: u64| if bare { n.to_string() } else { format!("{n:02}") };
        match chars.next() {
            Some('Y') => out.push_str(&year.to_string()),
            Some('y') => out.push_str(&pad(year.rem_euclid(100) as u64)),
            Some('m') => out.push_str(&pad(month as u64)),
            Some('d') => out.push_str(&pad(day as u64)),
            Some('e') => out.push_str(&format!("{day:2}")),
            Some('H') => out.push_str(&pad(hour)),
            Some('I') => out.push_str(&pad(hour12)),
            Some('M') => out.push_str(&pad(minute)),
            Some('S') => out.push_str(&pad(second)),
            Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('B') => out.push_str(month_name),
            Some('b' | 'h') => out.push_str(&month_name[..3.min(month_name.len())]),
            Some('A') => out.push_str(day_name),
            Some('a') => out.push_str(&day_name[..3.min(day_name.len())]),
            Some('F') => out.push_str(&format!("{year}-{month:02}-{day:02}")),
            Some('T') => out.push_str(&format!("{hour:02}:{minute:02}:{second:02}")),
            Some('Z') => out.push_str("UTC"),
            Some('z') => out.push_str("+0000"),
            Some('%') => out.push('%'),
            other => {
                out.push('%');
                out.extend(bare.then_some('-'));
                out.extend(other);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_civil() {
        assert_eq!(strftime("%A, %d %B %Y %H:%M:%S", 0), "Thursday, 01 January 1970 00:00:00");
        assert_eq!(strftime("%a %-d %b %y", 951_782_400), "Tue 29 Feb 00");
        assert_eq!(strftime("%F %T %I %p %% %Q", 1_795_558_496), "2026-11-24 22:14:56 10 PM % %Q");
    }

    #[test]
    fn generation_tags_keep_their_whitespace_control() {
        let source = "{%- generation -%} x {% endgeneration %}{% if generation %}";
        assert_eq!(without_generation_tags(source), "{%- if true -%} x {% endif %}{% if generation %}");
        assert_eq!(without_generation_tags("{% open"), "{% open");
    }
}
