//! What each `format` demands, as a pattern: exactly what validators check, or stricter.
//!
//! A format of strings becomes a pattern (and a length), a format of numbers becomes bounds; those
//! that only tell a form how to show a field pass. Any other is refused: it would go unchecked.

/// What a format means.
pub(super) enum Format {
    /// Strings match this, and are no longer than that many characters.
    Text(&'static str, Option<u64>),
    /// Whole numbers lie between these.
    Integer(f64, f64),
    /// Nothing that could be checked.
    Annotation,
}

const DATE: &str = concat!(
    r"(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)",
    r"|02-(?:0[1-9]|1[0-9]|2[0-8]))",
    // The 29th of February, in leap years alone.
    r"|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)-02-29)"
);
/// Without leap seconds: whether one was is known only of the past.
const TIME: &str =
    r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:[zZ]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";
const OCTET: &str = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
const LABEL: &str = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?";

/// The largest double below 2^63 and the next below 2^64: bounds are doubles, and these are the last exact ones.
const I64_MAX: f64 = 9_223_372_036_854_774_784.0;

/// What `name` means; `None` for a format that isn't known.
pub(super) fn lookup(name: &str) -> Option<Format> {
    Some(match name {
        "int8" => Format::Integer(-128.0, 127.0),
        "int16" => Format::Integer(-32_768.0, 32_767.0),
        "int32" => Format::Integer(-2_147_483_648.0, 2_147_483_647.0),
        "int64" => Format::Integer(-I64_MAX, I64_MAX),
        "uint8" => Format::Integer(0.0, 255.0),
        "uint16" => Format::Integer(0.0, 65_535.0),
        "uint32" => Format::Integer(0.0, 4_294_967_295.0),
        "uint64" | "uint" => Format::Integer(0.0, I64_MAX),
        // Every number and every text is one.
        "float" | "double" | "password" | "textarea" | "binary" | "path" | "file-path" | "directory-path" => {
            Format::Annotation
        }
        _ => return text(name),
    })
}

fn text(name: &str) -> Option<Format> {
    let (_, pattern, length) = PATTERNS.iter().find(|(known, ..)| *known == name)?;
    Some(Format::Text(pattern, *length))
}

/// Formats of strings: name, pattern, most characters.
static PATTERNS: std::sync::LazyLock<Vec<(&str, String, Option<u64>)>> = std::sync::LazyLock::new(|| {
    let whole = |pattern: String| format!("^(?:{pattern})$");
    let host = format!(r"{LABEL}(?:\.{LABEL})*");
    let ipv4 = format!(r"(?:{OCTET}\.){{3}}{OCTET}");
    let atom = r"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]";
    let base64 = "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?";
    vec![
        ("date", whole(DATE.to_owned()), None),
        ("time", whole(TIME.to_owned()), None),
        ("date-time", whole(format!("{DATE}[tT]{TIME}")), None),
        ("duration", whole(duration()), None),
        ("ipv4", whole(ipv4.clone()), None),
        ("ipv6", whole(ipv6(&ipv4)), None),
        ("hostname", whole(host.clone()), Some(253)),
        // The local part has at most 64 characters, the whole at most 254.
        ("email", whole(format!(r"{atom}{{1,31}}(?:\.{atom}{{1,30}})?@{LABEL}(?:\.{LABEL})+")), Some(254)),
        ("uuid", whole(uuid("[0-9a-fA-F]")), None),
        ("uuid1", whole(uuid("1")), None),
        ("uuid3", whole(uuid("3")), None),
        ("uuid4", whole(uuid("4")), None),
        ("uuid5", whole(uuid("5")), None),
        ("uuid7", whole(uuid("7")), None),
        ("uri", whole(uri(&host, &ipv4)), None),
        ("byte", whole(base64.to_owned()), None),
    ]
});

/// RFC 9562, its version a digit.
fn uuid(version: &str) -> String {
    let hex = "[0-9a-fA-F]";
    format!("{hex}{{8}}-{hex}{{4}}-{version}{hex}{{3}}-{hex}{{4}}-{hex}{{12}}")
}

/// RFC 3339, appendix A: units in order, none left out in between.
fn duration() -> String {
    let n = "[0-9]+";
    let time = format!("T(?:{n}H(?:{n}M(?:{n}S)?)?|{n}M(?:{n}S)?|{n}S)");
    let date = format!("(?:{n}Y(?:{n}M(?:{n}D)?)?|{n}M(?:{n}D)?|{n}D)(?:{time})?");
    format!("P(?:{date}|{time}|{n}W)")
}

/// RFC 4291, section 2.2: eight groups, of which one run may be `::`, the last two maybe as IPv4.
fn ipv6(ipv4: &str) -> String {
    let group = "[0-9a-fA-F]{1,4}";
    let last = format!("(?:{group}:{group}|{ipv4})");
    let mut forms = vec![format!("(?:{group}:){{6}}{last}"), format!("::(?:{group}:){{0,5}}{last}")];
    for before in 1..=6_usize {
        let head = format!("{group}(?::{group}){{{}}}", before - 1);
        if before <= 5 {
            forms.push(format!("{head}::(?:{group}:){{0,{}}}{last}", 5_usize.saturating_sub(before)));
        }
        forms.push(format!("{head}::(?:{group})?"));
    }
    forms.push(format!("{group}(?::{group}){{6}}::"));
    forms.push(format!("::(?:{group})?"));
    forms.join("|")
}

/// RFC 3986 with an authority of host names or IPv4, or none.
fn uri(host: &str, ipv4: &str) -> String {
    let escaped = "%[0-9a-fA-F]{2}";
    let segment = format!("(?:[a-zA-Z0-9._~!$&'()*+,;=:@-]|{escaped})");
    let tail = format!("(?:[a-zA-Z0-9._~!$&'()*+,;=:@/?-]|{escaped})*");
    let user = format!("(?:(?:[a-zA-Z0-9._~!$&'()*+,;=:-]|{escaped})*@)?");
    let authority = format!("//{user}(?:{host}|{ipv4})(?::[0-9]{{1,5}})?(?:/{segment}*)*");
    let path = format!("/?{segment}+(?:/{segment}*)*");
    format!(r"[a-zA-Z][a-zA-Z0-9+.-]*:(?:{authority}|{path})(?:\?{tail})?(?:#{tail})?")
}
