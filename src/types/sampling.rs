//! What a client asked of the sampler, validated at the door and neutral by default.

/// Sampling parameters of one sequence. Every field is already validated and resolved: no
/// `Option` means "the server decides later".
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Below 1e-5 decoding is greedy; otherwise logits are divided by it.
    pub temperature: f32,
    /// Keep the `top_k` most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of tokens whose probability reaches `top_p`; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less likely than `min_p` times the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output; 1 is neutral.
    pub repetition_penalty: f32,
    /// Subtracted once from the logit of every token of the output so far; 0 is neutral.
    pub presence_penalty: f32,
    /// Subtracted per occurrence in the output so far; 0 is neutral.
    pub frequency_penalty: f32,
    /// Added to the logit of a token id.
    pub logit_bias: Vec<(u32, f32)>,
    /// Token sequences that must never be completed.
    pub bad_words: Vec<Vec<u32>>,
    /// End-of-sequence and stop tokens are masked until this many tokens are generated.
    pub min_tokens: u32,
    /// Most tokens to generate (at least 1 unless only the prompt is scored, then 0).
    pub max_tokens: u32,
    /// The model's own end-of-turn tokens; ignored when `ignore_eos`.
    pub eos_token_ids: Vec<u32>,
    /// Tokens the client asked to stop at, also under `ignore_eos`.
    pub stop_token_ids: Vec<u32>,
    /// Generate past the end-of-turn token.
    pub ignore_eos: bool,
    /// Key of the random stream. With the choice index and the position it fixes every draw.
    pub seed: u64,
    /// `Some(k)`: report the log-probability of each chosen token and the `k` most likely ones,
    /// of the raw distribution (before bias, penalties, temperature and filters).
    pub logprobs: Option<u32>,
    /// `Some(k)`: as `logprobs`, for every prompt token but the first.
    pub prompt_logprobs: Option<u32>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            bad_words: Vec::new(),
            min_tokens: 0,
            max_tokens: 16,
            eos_token_ids: Vec::new(),
            stop_token_ids: Vec::new(),
            ignore_eos: false,
            seed: 0,
            logprobs: None,
            prompt_logprobs: None,
        }
    }
}

impl SamplingParams {
    /// True when `token` ends a sequence that has `num_output` tokens, that one included.
    pub fn stops_at(&self, token: u32, num_output: u32) -> bool {
        num_output > self.min_tokens
            && ((!self.ignore_eos && self.eos_token_ids.contains(&token)) || self.stop_token_ids.contains(&token))
    }
}
