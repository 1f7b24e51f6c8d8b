//! The text of an answer that is not understood yet, with the model's markers in it.
//!
//! A marker that is a token of its own stands here as two bytes that no text has (0xFF and its
//! number), so that the same characters typed as ordinary text are not a marker. A marker for which
//! the vocabulary has no token is its characters. Either way a marker is a byte string to look for.

/// First byte of a marker's token.
pub(super) const MARK: u8 = 0xff;

/// Shortest marker, in bytes.
const MIN_MARKER: usize = 5;

/// A text to look for, with tokens where the vocabulary has them.
pub(super) type Literal = Vec<u8>;

/// The markers that are tokens.
#[derive(Debug, Default)]
pub(super) struct Marks(Vec<(u32, &'static str)>);

impl Marks {
    /// Those of `texts` for which `token_of` knows a token. What is short is in every vocabulary and no marker.
    pub(super) fn new(texts: &[&'static str], token_of: impl Fn(&str) -> Option<u32>) -> Self {
        let mut marks = Self::default();
        for &text in texts {
            if !marks.0.iter().any(|(_, known)| *known == text)
                && text.len() >= MIN_MARKER
                && marks.0.len() < MARK as usize
                && let Some(id) = token_of(text)
            {
                marks.0.push((id, text));
            }
        }
        marks
    }

    /// The two bytes of the marker whose token is `id`.
    pub(super) fn of_token(&self, id: u32) -> Option<[u8; 2]> {
        let index = self.0.iter().position(|(known, _)| *known == id)?;
        Some([MARK, index as u8])
    }

    /// What the marker with number `index` looks like.
    pub(super) fn text(&self, index: u8) -> &'static str {
        self.0.get(index as usize).map_or("", |(_, text)| text)
    }

    #[cfg(test)]
    pub(super) fn texts(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|(_, text)| *text)
    }

    #[cfg(test)]
    /// The token of the marker with number `index`.
    pub(super) fn token(&self, index: u8) -> Option<u32> {
        self.0.get(index as usize).map(|(id, _)| *id)
    }

    /// `text` as a literal: markers in it become tokens.
    pub(super) fn literal(&self, text: &str) -> Literal {
        let mut literal = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let found = self.0.iter().enumerate().filter(|(_, (_, mark))| rest.starts_with(mark));
            match found.max_by_key(|(_, (_, mark))| mark.len()) {
                Some((index, (_, mark))) => {
                    literal.extend([MARK, index as u8]);
                    rest = rest.get(mark.len()..).unwrap_or_default();
                }
                None => {
                    let (head, tail) = rest.split_at(c.len_utf8());
                    literal.extend_from_slice(head.as_bytes());
                    rest = tail;
                }
            }
        }
        literal
    }

    /// The characters of `bytes`, markers spelled out.
    pub(super) fn spell(&self, bytes: &[u8]) -> String {
        let mut text = Vec::with_capacity(bytes.len());
        let mut rest = bytes.iter();
        while let Some(&byte) = rest.next() {
            match (byte, if byte == MARK { rest.next() } else { None }) {
                (MARK, Some(&index)) => text.extend_from_slice(self.text(index).as_bytes()),
                (byte, _) => text.push(byte),
            }
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// How the text at some place compares with a literal; the surest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Compared {
    Equal,
    /// Equal as far as the text goes.
    Undecided,
    Different,
}

/// Compares the beginning of `bytes` with `literal`.
pub(super) fn compare(bytes: &[u8], literal: &[u8]) -> Compared {
    let shared = bytes.len().min(literal.len());
    match bytes.get(..shared) == literal.get(..shared) {
        false => Compared::Different,
        true if shared == literal.len() => Compared::Equal,
        true => Compared::Undecided,
    }
}

/// Whether `byte` is one of the four blanks of JSON: nothing else counts as space around markers.
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

/// How many blanks `bytes` begins with.
pub(super) fn count_spaces(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|b| is_space(**b)).count()
}

/// A call that isn't certain after so many bytes is none.
const MAX_ATTEMPT: usize = 64 << 10;

/// What came and isn't dealt with.
///
/// ```text
///   done | attempt        | pending
///        kept             at
/// ```
/// An attempt is what was read as the beginning of a call and may still turn out to be text.
#[derive(Debug, Default)]
pub(super) struct Input {
    bytes: Vec<u8>,
    kept: usize,
    at: usize,
    attempting: bool,
}

impl Input {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        // Moving the rest costs as much as what was dealt with since the last time.
        if self.kept > 4096 && self.kept * 2 > self.bytes.len() {
            self.bytes.drain(..self.kept);
            self.at -= self.kept;
            self.kept = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// What is pending; of an attempt no more than an attempt may take, so that where it is given up
    /// doesn't depend on how the text came.
    pub(super) fn pending(&self) -> &[u8] {
        let end = if self.attempting { self.bytes.len().min(self.kept + MAX_ATTEMPT) } else { self.bytes.len() };
        self.bytes.get(self.at..end.max(self.at)).unwrap_or_default()
    }

    /// Moves past `count` pending bytes.
    pub(super) fn advance(&mut self, count: usize) {
        self.at = (self.at + count).min(self.bytes.len());
        if !self.attempting {
            self.kept = self.at;
        }
    }

    /// From here on what is passed is kept.
    pub(super) fn attempt(&mut self) {
        self.attempting = true;
        self.kept = self.at;
    }

    /// The attempt was right.
    pub(super) fn succeed(&mut self) {
        self.attempting = false;
        self.kept = self.at;
    }

    /// The attempt failed: gives what was passed.
    pub(super) fn fail(&mut self) -> Vec<u8> {
        let passed = self.bytes.get(self.kept..self.at).unwrap_or_default().to_vec();
        self.succeed();
        passed
    }

    /// The attempt has had all the text that it may have.
    pub(super) fn is_exhausted(&self) -> bool {
        self.attempting && self.bytes.len() >= self.kept + MAX_ATTEMPT
    }
}
