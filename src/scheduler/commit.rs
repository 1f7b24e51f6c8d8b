//! What came of a batch: tokens are appended, full blocks published, stops and faults acted on.

use super::core::{InFlight, InFlightRow};
use super::{Scheduler, SeqEvent};
use crate::kv::extend_hashes;
use crate::types::{FinishReason, SampledToken, SeqId, StepOutput, TokenLogprobs};

impl Scheduler {
    /// What happened since the last call of this or of [`Self::commit`]: the sequences that `schedule` has started,
    /// for those who want to know before their batch is computed.
    pub fn take_events(&mut self) -> Vec<SeqEvent> {
        std::mem::take(&mut self.events)
    }

    /// Takes in the outcome of the oldest uncommitted batch and tells what happened since events
    /// were last taken. Results of sequences that are gone meanwhile are discarded; a live sequence that should have
    /// sampled but has no result fails, it alone.
    ///
    /// # Panics
    /// When `output.step` isn't the oldest uncommitted batch: the engine's loop is broken.
    pub fn commit(&mut self, output: &StepOutput) -> Vec<SeqEvent> {
        let batch = self.pop_in_flight(output.step);
        self.totals.computed_tokens += batch.num_tokens as u64;
        let mut sampled = output.sampled.as_slice();
        for row in &batch.rows {
            let result = if row.samples { next_result(&mut sampled, row.seq) } else { None };
            self.commit_computed(*row);
            self.drain(row.seq);
            self.commit_prompt_logprobs(*row, output);
            self.commit_outcome(*row, result, output);
        }
        self.take_events()
    }

    /// The oldest uncommitted batch couldn't be computed: fails its sequences, and only those.
    ///
    /// # Panics
    /// As [`Self::commit`].
    pub fn fail_batch(&mut self, step: u64, message: &str) -> Vec<SeqEvent> {
        let batch = self.pop_in_flight(step);
        for row in &batch.rows {
            if let Some(entry) = self.entries.get_mut(&row.seq) {
                entry.in_flight -= 1;
            }
            self.drain(row.seq);
            self.fail(row.seq, message.to_owned());
        }
        self.take_events()
    }

    fn pop_in_flight(&mut self, step: u64) -> InFlight {
        match self.in_flight.pop_front() {
            Some(batch) if batch.step == step => batch,
            other => panic!("step {step} committed, but the oldest in flight is {:?}", other.map(|b| b.step)),
        }
    }

    /// The row's keys and values are in the cache now.
    fn commit_computed(&mut self, row: InFlightRow) {
        let Some(entry) = self.entries.get_mut(&row.seq) else { return };
        entry.in_flight -= 1;
        entry.pending -= usize::from(row.samples);
        if entry.running {
            entry.seq.num_computed = row.end;
        }
        let config = self.kv.config();
        if config.prefix_cache {
            extend_hashes(&mut entry.hashes, &entry.seq.tokens, config.block_size, entry.salt);
        }
        self.kv.advance(row.seq, row.end, &entry.hashes);
        entry.prompt_computed |= row.end >= entry.seq.num_prompt;
    }

    /// One batch less that uses the blocks of a sequence that is gone or preempted.
    fn drain(&mut self, seq: SeqId) {
        let Some(in_flight) = self.draining.get_mut(&seq) else { return };
        *in_flight -= 1;
        if *in_flight == 0 {
            self.draining.remove(&seq);
            self.kv.free(seq);
        }
    }

    fn commit_prompt_logprobs(&mut self, row: InFlightRow, output: &StepOutput) {
        let Some(entry) = self.entries.get_mut(&row.seq) else { return };
        if entry.seq.params.prompt_logprobs.is_none() {
            return;
        }
        entry.num_scored = entry.num_scored.max(row.end.min(entry.seq.num_prompt));
        for (seq, first, entries) in output.prompt_logprobs.iter().filter(|(seq, ..)| *seq == row.seq) {
            self.events.push(SeqEvent::PromptLogprobs { seq: *seq, first: *first, entries: entries.clone() });
        }
    }

    /// The token sampled, if the row samples, the tokens that must follow it, and whether the sequence ends here.
    fn commit_outcome(&mut self, row: InFlightRow, result: Option<&SampledToken>, output: &StepOutput) {
        let seq = row.seq;
        let Some(entry) = self.entries.get_mut(&seq) else { return };
        if !row.samples {
            if entry.seq.params.max_tokens == 0 && row.end >= entry.seq.num_prompt {
                self.finish(seq, FinishReason::Length, None);
            }
            return;
        }
        let (token, logprobs) = match result {
            Some(SampledToken { token: Ok(token), logprobs, .. }) => (*token, logprobs.clone()),
            Some(SampledToken { token: Err(message), .. }) => return self.fail(seq, message.clone()),
            None => return self.fail(seq, "no token was sampled for it".to_owned()),
        };
        let follow = output.follows.iter().find(|follow| follow.seq == seq);
        let (forced, over) = follow.map_or((&[][..], false), |follow| (&follow.forced[..], follow.over));
        debug_assert!(forced.is_empty() || entry.in_flight == 0, "a batch in flight knows no forced tokens");
        let mut going = self.append(seq, (token, logprobs), over && forced.is_empty());
        for (at, &token) in forced.iter().enumerate() {
            going = going && self.append(seq, (token, None), over && at + 1 == forced.len());
        }
    }

    /// One more token of a live sequence, and perhaps its end: always if its text is `complete`. False if it ended.
    fn append(&mut self, seq: SeqId, (token, logprobs): (u32, Option<TokenLogprobs>), complete: bool) -> bool {
        let Some(entry) = self.entries.get_mut(&seq) else { return false };
        entry.seq.tokens.push(token);
        let stopped = entry.seq.params.stops_at(token, entry.seq.num_output() as u32);
        let full = entry.seq.tokens.len() >= entry.most_tokens(self.config.max_model_len);
        self.events.push(SeqEvent::Token { seq, token, logprobs });
        match (stopped, complete, full) {
            (true, _, _) => self.finish(seq, FinishReason::Stop, Some(token)),
            (_, true, _) => self.finish(seq, FinishReason::Stop, None),
            (_, _, true) => self.finish(seq, FinishReason::Length, None),
            _ => return true,
        }
        false
    }

    fn finish(&mut self, seq: SeqId, reason: FinishReason, stop_token: Option<u32>) {
        self.remove(seq);
        self.events.push(SeqEvent::Finished { seq, reason, stop_token });
    }

    fn fail(&mut self, seq: SeqId, message: String) {
        if self.remove(seq) {
            self.events.push(SeqEvent::Failed { seq, message });
        }
    }
}

/// The result of `seq`; results come in batch order, and some sequence's may be missing.
fn next_result<'a>(results: &mut &'a [SampledToken], seq: SeqId) -> Option<&'a SampledToken> {
    let at = results.iter().position(|r| r.seq == seq)?;
    let result = &results[at];
    *results = &results[at + 1..];
    Some(result)
}
