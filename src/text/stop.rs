//! Stop strings, found while the text is still being written.
//!
//! Text arrives in pieces; a stop string may span any number of them. What could still become a
//! stop string is held back, everything else passes at once. The match that completes first wins;
//! of those that complete at the same byte the longest, then the first listed. So the outcome
//! does not depend on how the text was cut into pieces.

use std::sync::Arc;

/// What one piece of text came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopOutcome {
    /// Text that is now safe to send.
    pub text: String,
    /// Index of the stop string that was met; the answer ends here.
    pub matched: Option<usize>,
}

/// One stop string. It may be megabytes long and watched for in thousands of choices, which share it.
#[derive(Debug)]
struct Pattern {
    text: String,
    /// `failure[i]`: length of the longest proper prefix that is a suffix of the first `i + 1` bytes.
    failure: Vec<usize>,
}

impl Pattern {
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes();
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
        Self { text: text.to_owned(), failure }
    }
}

/// How much of a pattern the text so far ends with.
#[derive(Clone, Debug)]
struct Watch {
    pattern: Arc<Pattern>,
    /// In the caller's list.
    index: usize,
    matched: usize,
}

impl Watch {
    /// Advances by one byte; true when the whole string is met.
    fn step(&mut self, byte: u8) -> bool {
        let bytes = self.pattern.text.as_bytes();
        while self.matched > 0 && bytes[self.matched] != byte {
            self.matched = self.pattern.failure[self.matched - 1];
        }
        if bytes[self.matched] == byte {
            self.matched += 1;
        }
        self.matched == bytes.len()
    }
}

/// Watches a stream of text for stop strings (Knuth, Morris and Pratt's automaton for each), in
/// time linear in the text. What is held back is the beginning of a stop string by definition, so
/// it isn't stored. Clones share the stop strings.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    /// Empty strings are left out.
    watches: Vec<Watch>,
    include_stop: bool,
    done: bool,
}

impl StopMatcher {
    /// Watches for `stops`; empty ones never match. `include_stop` keeps the stop string itself
    /// in the text.
    pub fn new(stops: &[String], include_stop: bool) -> Self {
        let stops = stops.iter().enumerate().filter(|(_, s)| !s.is_empty());
        let watch = |(index, s): (usize, &String)| Watch { pattern: Arc::new(Pattern::new(s)), index, matched: 0 };
        Self { watches: stops.map(watch).collect(), include_stop, done: false }
    }

    /// Takes the next piece of text. After a match everything further is dropped.
    pub fn push(&mut self, piece: &str) -> StopOutcome {
        if self.done {
            return StopOutcome::default();
        }
        let (holder, held) = self.longest();
        for (i, byte) in piece.bytes().enumerate() {
            let mut hit: Option<(usize, usize)> = None;
            for watch in &mut self.watches {
                if watch.step(byte) && hit.is_none_or(|(_, len)| watch.matched > len) {
                    hit = Some((watch.index, watch.matched));
                }
            }
            if let Some((index, len)) = hit {
                self.done = true;
                let hold = if self.include_stop { 0 } else { len };
                let text = self.join(holder, held, piece.get(..=i).unwrap_or(piece), hold);
                return StopOutcome { text, matched: Some(index) };
            }
        }
        let (_, hold) = self.longest();
        StopOutcome { text: self.join(holder, held, piece, hold), matched: None }
    }

    /// The pattern that most of is met, and how many bytes.
    fn longest(&self) -> (usize, usize) {
        let lengths = self.watches.iter().enumerate().map(|(i, w)| (i, w.matched));
        lengths.max_by_key(|&(_, matched)| matched).unwrap_or((0, 0))
    }

    /// The first `held` bytes of pattern `holder`, then `piece`, without the last `hold` bytes.
    fn join(&self, holder: usize, held: usize, piece: &str, hold: usize) -> String {
        let held_text = self.watches.get(holder).and_then(|w| w.pattern.text.get(..held)).unwrap_or_default();
        match piece.len().checked_sub(hold) {
            Some(end) => [held_text, piece.get(..end).unwrap_or(piece)].concat(),
            None => held_text.get(..(held + piece.len()).saturating_sub(hold)).unwrap_or_default().to_owned(),
        }
    }

    /// What comes next is no text: gives up what was held back, and watches on.
    pub fn flush(&mut self) -> String {
        if self.done {
            return String::new();
        }
        let (holder, held) = self.longest();
        let text = self.join(holder, held, "", 0);
        self.watches.iter_mut().for_each(|watch| watch.matched = 0);
        text
    }

    /// The generation ended otherwise: gives up what was held back.
    pub fn finish(&mut self) -> String {
        if std::mem::replace(&mut self.done, true) {
            return String::new();
        }
        let (holder, held) = self.longest();
        self.join(holder, held, "", 0)
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
            let mut matcher = StopMatcher::new(&stops, include);
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
        let mut matcher = StopMatcher::new(&["</end>".into()], false);
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
        let mut matcher = StopMatcher::new(&[stop], false);
        let mut sent = 0;
        for _ in 0..3 << 20 {
            sent += matcher.push("a").text.len();
        }
        assert_eq!(sent + matcher.finish().len(), 3 << 20);
    }

    #[test]
    fn a_clone_shares_the_strings_and_watches_by_itself() {
        let mut first = StopMatcher::new(&["ab".into()], false);
        let mut second = first.clone();
        assert!(Arc::ptr_eq(&first.watches[0].pattern, &second.watches[0].pattern));
        assert_eq!(first.push("a").matched, None);
        assert_eq!((second.push("b").matched, first.push("b").matched), (None, Some(0)));
    }
}
