//! Regular expressions of ECMA-262, as JSON schemas hold them, in the syntax of the `regex` crate.
//!
//! The two look alike and differ where it hurts: `[` and `&&` inside a class, what `.` and `\d`
//! match, escapes of one that mean something else in the other. What a finite automaton can't do
//! (look-around, back references, word boundaries) is refused.

use llguidance::derivre::RegexBuilder;

/// What ECMA calls white space and line ends, for `\s`.
const SPACES: &str = r"\t-\r \x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}";
const DIGITS: &str = "0-9";
const WORD: &str = "0-9A-Za-z_";
/// Every character but the line ends.
const DOT: &str = r"[^\n\r\x{2028}\x{2029}]";

/// The same language in the syntax of the `regex` crate; for `search`, it needs to match only a part.
///
/// # Errors
/// What can't be expressed, in words.
pub(in super::super) fn from_ecma(pattern: &str, search: bool) -> Result<String, String> {
    let mut translator = Translator { rest: pattern, out: String::with_capacity(pattern.len() + 8) };
    translator.run()?;
    let out = translator.out;
    let mut builder = RegexBuilder::new();
    let parsed = if search { builder.mk_regex_for_serach(&out) } else { builder.mk_regex(&out) };
    match parsed {
        Ok(_) => Ok(out),
        Err(e) if e.to_string().contains("look") => {
            Err("^ and $ can stand only at the ends of a pattern or an alternative".to_owned())
        }
        Err(e) => Err(format!("not a regular expression: {}", last_line(&e.to_string()))),
    }
}

/// `regex-syntax` draws the place over several lines; the last says what is wrong.
fn last_line(message: &str) -> String {
    message.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

struct Translator<'a> {
    rest: &'a str,
    out: String,
}

/// One member of a class, or an escape outside of one.
enum Item {
    Char(char),
    /// A set as it stands between brackets, and whether its complement is meant.
    Set(&'static str, bool),
    /// A property such as `\p{L}`, passed on.
    Property(String),
}

impl Translator<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = self.rest.get(c.len_utf8()..).unwrap_or_default();
        Some(c)
    }

    fn eat(&mut self, prefix: &str) -> bool {
        match self.rest.strip_prefix(prefix) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn run(&mut self) -> Result<(), String> {
        while let Some(c) = self.next() {
            match c {
                '\\' => match self.escape(false)? {
                    Item::Char(c) => self.push_char(c),
                    Item::Set(set, negated) => {
                        let sign = if negated { "^" } else { "" };
                        self.out.push_str(&format!("[{sign}{set}]"));
                    }
                    Item::Property(text) => self.out.push_str(&text),
                },
                '[' => self.class()?,
                '(' => self.group()?,
                '.' => self.out.push_str(DOT),
                '{' => match quantifier(self.rest) {
                    Some(length) => {
                        self.out.push('{');
                        let (inside, rest) = self.rest.split_at(length);
                        self.out.push_str(inside);
                        self.rest = rest;
                    }
                    None => self.push_char('{'),
                },
                '*' | '+' | '?' | '|' | ')' | '^' | '$' => self.out.push(c),
                _ => self.push_char(c),
            }
        }
        Ok(())
    }

    fn push_char(&mut self, c: char) {
        if c.is_ascii_alphanumeric() || c == '_' || c == ' ' || !c.is_ascii() {
            self.out.push(c);
        } else {
            self.out.push_str(&format!(r"\x{{{:x}}}", c as u32));
        }
    }

    fn group(&mut self) -> Result<(), String> {
        self.out.push('(');
        if !self.eat("?") {
            // A plain group captures, which nothing here reads.
            self.out.push_str("?:");
            return Ok(());
        }
        if ["=", "!", "<=", "<!"].iter().any(|sign| self.rest.starts_with(sign)) {
            return Err("look-around isn't supported".to_owned());
        }
        if self.eat("<") || self.eat("P<") {
            let end = self.rest.find('>').ok_or("a group's name doesn't end")?;
            self.rest = self.rest.get(end + 1..).unwrap_or_default();
            self.out.push_str("?:");
            return Ok(());
        }
        let flags = self.rest.bytes().take_while(|b| matches!(b, b'i' | b's' | b'-')).count();
        let (text, rest) = self.rest.split_at(flags);
        let is_known = rest.starts_with(':') || (flags > 0 && rest.starts_with(')'));
        if !is_known {
            return Err(format!("the group \"(?{}\" isn't supported", rest.chars().take(2).collect::<String>()));
        }
        self.out.push('?');
        self.out.push_str(text);
        let end = if rest.starts_with(':') { ':' } else { ')' };
        self.out.push(end);
        self.rest = rest.get(1..).unwrap_or_default();
        Ok(())
    }

    /// After a backslash.
    fn escape(&mut self, in_class: bool) -> Result<Item, String> {
        let c = self.next().ok_or("it ends in a backslash")?;
        Ok(match c {
            'd' => Item::Set(DIGITS, false),
            'D' => Item::Set(DIGITS, true),
            'w' => Item::Set(WORD, false),
            'W' => Item::Set(WORD, true),
            's' => Item::Set(SPACES, false),
            'S' => Item::Set(SPACES, true),
            't' => Item::Char('\t'),
            'n' => Item::Char('\n'),
            'r' => Item::Char('\r'),
            'v' => Item::Char('\u{b}'),
            'f' => Item::Char('\u{c}'),
            'b' if in_class => Item::Char('\u{8}'),
            '0' if !self.rest.starts_with(|c: char| c.is_ascii_digit()) => Item::Char('\0'),
            'x' => self.code(2)?,
            'u' if self.rest.starts_with('{') => {
                let end = self.rest.find('}').ok_or("\\u{ doesn't end")?;
                let digits = self.rest.get(1..end).unwrap_or_default().to_owned();
                self.rest = self.rest.get(end + 1..).unwrap_or_default();
                character(&digits)?
            }
            'u' => self.code(4)?,
            'p' | 'P' if self.rest.starts_with('{') => {
                let end = self.rest.find('}').ok_or("\\p{ doesn't end")?;
                let text = format!("\\{c}{}", self.rest.get(..=end).unwrap_or_default());
                self.rest = self.rest.get(end + 1..).unwrap_or_default();
                Item::Property(text)
            }
            'b' | 'B' => return Err("word boundaries aren't supported".to_owned()),
            'k' | '1'..='9' => return Err("back references aren't supported".to_owned()),
            _ if c.is_ascii_alphanumeric() => return Err(format!("the escape \\{c} isn't supported")),
            _ => Item::Char(c),
        })
    }

    fn code(&mut self, length: usize) -> Result<Item, String> {
        let digits = self.rest.get(..length).ok_or("an escape ends early")?.to_owned();
        self.rest = self.rest.get(length..).unwrap_or_default();
        character(&digits)
    }

    /// After `[`.
    fn class(&mut self) -> Result<(), String> {
        let negated = self.eat("^");
        let mut members = String::new();
        loop {
            let item = match self.next().ok_or("a class isn't closed by ]")? {
                ']' => break,
                '\\' => self.escape(true)?,
                c => Item::Char(c),
            };
            match item {
                Item::Set(set, false) => members.push_str(set),
                Item::Set(set, true) => members.push_str(&format!("[^{set}]")),
                Item::Property(text) => members.push_str(&text),
                Item::Char(from) => {
                    members.push_str(&format!(r"\x{{{:x}}}", from as u32));
                    let ranges = self.rest.starts_with('-') && !self.rest.starts_with("-]");
                    if ranges && let Some(to) = self.range_end()? {
                        members.push_str(&format!(r"-\x{{{:x}}}", to as u32));
                    }
                }
            }
        }
        match (negated, members.is_empty()) {
            (true, true) => self.out.push_str("(?s:.)"),
            (false, true) => return Err("[] matches nothing".to_owned()),
            (true, false) => self.out.push_str(&format!("[^{members}]")),
            (false, false) => self.out.push_str(&format!("[{members}]")),
        }
        Ok(())
    }

    /// The end of a range, at its `-`; `None`, and nothing read, where a set stands (`[a-\d]`): `-` is itself there.
    fn range_end(&mut self) -> Result<Option<char>, String> {
        let before = self.rest;
        self.next();
        let item = match self.next() {
            Some('\\') => self.escape(true)?,
            Some(c) => Item::Char(c),
            None => return Err("a class isn't closed by ]".to_owned()),
        };
        match item {
            Item::Char(c) => Ok(Some(c)),
            _ => {
                self.rest = before;
                Ok(None)
            }
        }
    }
}

fn character(digits: &str) -> Result<Item, String> {
    let code = u32::from_str_radix(digits, 16).ok();
    let c = code.and_then(char::from_u32).ok_or_else(|| format!("{digits} is the code of no character"))?;
    Ok(Item::Char(c))
}

/// Length of what closes a quantifier such as `{2,5}`, behind its `{`; elsewhere the brace is a character.
fn quantifier(rest: &str) -> Option<usize> {
    let end = rest.find('}')?;
    let inside = rest.get(..end)?;
    let (least, most) = inside.split_once(',').unwrap_or((inside, ""));
    let is_number = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    (!least.is_empty() && is_number(least) && is_number(most)).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_language_in_other_words() {
        // Pattern, texts that it matches somewhere, texts that it doesn't.
        let cases: &[(&str, &[&str], &[&str])] = &[
            (r"^[a-z&&b]$", &["&", "q"], &["Q"]),
            (r"^[[\]]$", &["[", "]"], &["a"]),
            (r"^[\w-]+$", &["a-b"], &["a b"]),
            (r"^[\w-.]+$", &["a-b.c"], &["a+b"]),
            (r"^[a-\d]$", &["a", "-", "7"], &["b"]),
            (r"^\d+$", &["12"], &["\u{663}"]),
            (r"^{a}$", &["{a}"], &["a"]),
            (r"^a{2}$", &["aa"], &["a{2}"]),
            (r"^\u0041\x42$", &["AB"], &["ab"]),
            (r"^a|b$", &["ax", "xb"], &["xax"]),
            (r"^(?<year>\d{4})$", &["2026"], &["20"]),
            (r"^(?i)abc$", &["AbC"], &["abd"]),
            (r"^.$", &["x", "é"], &["\n", "\r"]),
            (r"^\/\-\_$", &["/-_"], &["\\"]),
            (r"[^\S\r]", &[" "], &["a\r"]),
            (r"x", &["axb"], &["ab"]),
        ];
        for (pattern, good, bad) in cases {
            let translated = from_ecma(pattern, true).unwrap_or_else(|e| panic!("{pattern}: {e}"));
            let regex = regex::Regex::new(&translated).unwrap_or_else(|e| panic!("{translated}: {e}"));
            for text in *good {
                assert!(regex.is_match(text), "{pattern} as {translated} on {text:?}");
            }
            for text in *bad {
                assert!(!regex.is_match(text), "{pattern} as {translated} on {text:?}");
            }
        }
    }

    #[test]
    fn what_no_automaton_can_do_is_refused() {
        let refused = [
            ("(?=a)", "look-around"),
            ("(?<!a)b", "look-around"),
            (r"(a)\1", "back references"),
            (r"\bword\b", "word boundaries"),
            (r"\Aabc\Z", "\\A"),
            ("a^b", "ends of a pattern"),
            ("[]", "nothing"),
            ("[a", "closed"),
            ("(a", "not a regular expression"),
            (r"\ud800", "no character"),
            ("(?m)a", "(?m)"),
            ("*", "not a regular expression"),
        ];
        for (pattern, word) in refused {
            let error = from_ecma(pattern, true).expect_err(pattern);
            assert!(error.contains(word), "{pattern}: {error}");
        }
    }
}
