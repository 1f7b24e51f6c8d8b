//! Stop strings, found while the text is still being written.
//!
//! Text arrives in pieces; a stop string may span any number of them. What could still become a
//! stop string is held back, everything else passes at once. The match that completes first wins;
//! of those that complete at the same byte the longest, then the first listed. So the outcome
//! does not depend on how the text was cut into pieces.

/// What one piece of text came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopOutcome {
    /// Text that is now safe to send.
    pub text: String,
    /// Index of the stop string that was met; the answer ends here.
    pub matched: Option<usize>,
}

/// One stop string and how much of it the text so far ends with.
#[derive(Clone, Debug)]
struct Pattern {
    bytes: Vec<u8>,
    /// `failure[i]`: length of the longest proper prefix that is a suffix of `bytes[..=i]`.
    failure: Vec<usize>,
    matched: usize,
}

impl Pattern {
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes().to_vec();
        let mut failure = vec![0; bytes.len()];
        let mut length = 0;
        for i in 1..bytes.len() {
            while length > 0 && bytes[i] != bytes[length] {
                length = failure[length - 1];
            }
            if bytes[i] == bytes[length] {
                length += 1;
            }
            failure[i] = length;
        }
        Self { bytes, failure, matched: 0 }
    }

    /// Advances by one byte; true when the whole string is met.
    fn step(&mut self, byte: u8) -> bool {
        while self.matched > 0 && self.bytes[self.matched] != byte {
            self.matched = self.failure[self.matched - 1];
        }
        if self.bytes[self.matched] == byte {
            self.matched += 1;
        }
        self.matched == self.bytes.len()
    }
}

/// Watches a stream of text for stop strings (Knuth, Morris and Pratt's automaton for each), in
/// time linear in the text.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    /// With the index in the caller's list; empty strings are left out.
    patterns: Vec<(usize, Pattern)>,
    include_stop: bool,
    held: String,
    done: bool,
}

impl StopMatcher {
    /// Watches for `stops`; empty ones never match. `include_stop` keeps the stop string itself
    /// in the text.
    pub fn new(stops: Vec<String>, include_stop: bool) -> Self {
        let patterns =
            stops.iter().enumerate().filter(|(_, s)| !s.is_empty()).map(|(i, s)| (i, Pattern::new(s))).collect();
        Self { patterns, include_stop, held: String::new(), done: false }
    }

    /// Takes the next piece of text. After a match everything further is dropped.
    pub fn push(&mut self, piece: &str) -> StopOutcome {
        if self.done {
            return StopOutcome::default();
        }
        if self.patterns.is_empty() {
            return StopOutcome { text: piece.to_owned(), matched: None };
        }
        for (i, byte) in piece.bytes().enumerate() {
            let mut hit: Option<(usize, usize)> = None;
            for (index, pattern) in &mut self.patterns {
                if pattern.step(byte) && hit.is_none_or(|(_, len)| pattern.bytes.len() > len) {
                    hit = Some((*index, pattern.bytes.len()));
                }
            }
            if let Some((index, len)) = hit {
                return self.finish_match(&piece[..=i], index, len);
            }
        }
        self.held.push_str(piece);
        let hold = self.patterns.iter().map(|(_, p)| p.matched).max().unwrap_or(0);
        let keep = self.held.split_off(self.held.len().saturating_sub(hold));
        StopOutcome { text: std::mem::replace(&mut self.held, keep), matched: None }
    }

    /// `piece` ends with the last byte of the stop string, of `len` bytes.
    fn finish_match(&mut self, piece: &str, index: usize, len: usize) -> StopOutcome {
        self.done = true;
        let mut text = std::mem::take(&mut self.held);
        text.push_str(piece);
        if !self.include_stop {
            text.truncate(text.len().saturating_sub(len));
        }
        StopOutcome { text, matched: Some(index) }
    }

    /// The generation ended otherwise: gives up what was held back.
    pub fn finish(&mut self) -> String {
        self.done = true;
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By definition: the first end at which any stop string ends, the longest of those.
    fn naive(text: &str, stops: &[String]) -> Option<(usize, usize, usize)> {
        (1..=text.len()).find_map(|end| {
            let ends = |s: &&(usize, &String)| text.as_bytes()[..end].ends_with(s.1.as_bytes());
            let all: Vec<_> = stops.iter().enumerate().filter(|(_, s)| !s.is_empty()).collect();
            let longest = all.iter().filter(ends).map(|(_, s)| s.len()).max()?;
            let index = all.iter().filter(ends).find(|(_, s)| s.len() == longest)?.0;
            Some((end, longest, index))
        })
    }

    fn lcg(state: &mut u64) -> usize {
        *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (*state >> 33) as usize
    }

    fn word(state: &mut u64, max: usize) -> String {
        (0..lcg(state) % (max + 1)).map(|_| ['a', 'b', 'é', '🙂'][lcg(state) % 4]).collect()
    }

    #[test]
    fn agrees_with_a_naive_search_however_the_text_is_cut() {
        let mut state = 7;
        for case in 0..20_000 {
            let stops: Vec<String> = (0..lcg(&mut state) % 4).map(|_| word(&mut state, 4)).collect();
            let text = word(&mut state, 24);
            let include = case % 2 == 0;
            let mut matcher = StopMatcher::new(stops.clone(), include);
            let (mut got, mut matched) = (String::new(), None);
            let mut piece = String::new();
            for c in text.chars() {
                piece.push(c);
                if lcg(&mut state).is_multiple_of(3) {
                    let outcome = matcher.push(&piece);
                    piece.clear();
                    got += &outcome.text;
                    matched = matched.or(outcome.matched);
                }
            }
            let outcome = matcher.push(&piece);
            got += &outcome.text;
            matched = matched.or(outcome.matched);
            got += &matcher.finish();
            match naive(&text, &stops) {
                Some((end, len, index)) => {
                    let cut = if include { end } else { end - len };
                    assert_eq!((got.as_str(), matched), (&text[..cut], Some(index)), "{text:?} {stops:?}");
                }
                None => assert_eq!((got, matched), (text.clone(), None), "{text:?} {stops:?}"),
            }
        }
    }

    #[test]
    fn holds_back_only_what_may_become_a_stop_string() {
        let mut matcher = StopMatcher::new(vec!["</end>".into()], false);
        assert_eq!(matcher.push("hi <").text, "hi ");
        assert_eq!(matcher.push("/en").text, "");
        assert_eq!(matcher.push("t").text, "</ent");
        let outcome = matcher.push("</end> more");
        assert_eq!((outcome.text.as_str(), outcome.matched), ("", Some(0)));
        assert_eq!(matcher.push("x").text + &matcher.finish(), "");
    }

    #[test]
    fn a_long_repetitive_stop_string_stays_linear() {
        let stop = "a".repeat(1 << 20) + "b";
        let mut matcher = StopMatcher::new(vec![stop], false);
        let mut sent = 0;
        for _ in 0..3 << 20 {
            sent += matcher.push("a").text.len();
        }
        assert_eq!(sent + matcher.finish().len(), 3 << 20);
    }
}
