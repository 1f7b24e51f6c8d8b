//! Writes GGUF files, sound ones and others: every field can be set to something wrong.

/// ggml type numbers.
pub(crate) const F32: u32 = 0;
pub(crate) const Q4_0: u32 = 2;

/// Metadata type numbers.
pub(crate) const TYPE_U32: u32 = 4;
pub(crate) const TYPE_I32: u32 = 5;
pub(crate) const TYPE_F32: u32 = 6;
pub(crate) const TYPE_STRING: u32 = 8;
pub(crate) const TYPE_ARRAY: u32 = 9;

#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// Fastest first, as in the file.
    pub(crate) dims: Vec<u64>,
    pub(crate) ty: u32,
    pub(crate) data: Vec<u8>,
    /// In place of the right offset.
    pub(crate) offset: Option<u64>,
}

#[derive(Clone)]
pub(crate) struct Writer {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u32,
    pub(crate) alignment: usize,
    /// In place of the right counts.
    pub(crate) tensor_count: Option<u64>,
    pub(crate) pair_count: Option<u64>,
    pub(crate) pairs: Vec<Vec<u8>>,
    pub(crate) tensors: Vec<Tensor>,
}

pub(crate) fn string(text: &str) -> Vec<u8> {
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.extend(text.as_bytes());
    out
}

impl Writer {
    pub(crate) fn empty() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            alignment: 32,
            tensor_count: None,
            pair_count: None,
            pairs: Vec::new(),
            tensors: Vec::new(),
        }
    }

    /// A Llama of one layer that a spec can be made of.
    pub(crate) fn llama() -> Self {
        let mut w = Self::empty();
        w.text("general.architecture", "llama");
        for (key, value) in [
            ("block_count", 1),
            ("context_length", 64),
            ("embedding_length", 32),
            ("feed_forward_length", 64),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
        ] {
            w.u32(&format!("llama.{key}"), value);
        }
        w.f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
        w.array("tokenizer.ggml.tokens", TYPE_STRING, 4, &["a", "b", "", "d"].map(string).concat());
        w.tensor("token_embd.weight", &[32, 8], Q4_0);
        w.tensor("output_norm.weight", &[32], F32);
        for (name, dims) in [
            ("attn_norm", vec![32]),
            ("attn_q", vec![32, 32]),
            ("attn_k", vec![32, 16]),
            ("attn_v", vec![32, 16]),
            ("attn_output", vec![32, 32]),
            ("ffn_norm", vec![32]),
            ("ffn_gate", vec![32, 64]),
            ("ffn_up", vec![32, 64]),
            ("ffn_down", vec![64, 32]),
        ] {
            w.tensor(&format!("blk.0.{name}.weight"), &dims, if dims.len() == 1 { F32 } else { Q4_0 });
        }
        w
    }

    pub(crate) fn pair(&mut self, key: &str, ty: u32, value: &[u8]) {
        self.pairs.push([string(key), ty.to_le_bytes().to_vec(), value.to_vec()].concat());
    }

    pub(crate) fn u32(&mut self, key: &str, value: u32) {
        self.pair(key, TYPE_U32, &value.to_le_bytes());
    }

    pub(crate) fn f32(&mut self, key: &str, value: f32) {
        self.pair(key, TYPE_F32, &value.to_le_bytes());
    }

    pub(crate) fn text(&mut self, key: &str, value: &str) {
        self.pair(key, TYPE_STRING, &string(value));
    }

    pub(crate) fn array(&mut self, key: &str, element: u32, count: u64, bytes: &[u8]) {
        self.pair(key, TYPE_ARRAY, &[&element.to_le_bytes()[..], &count.to_le_bytes(), bytes].concat());
    }

    /// Replaces a pair.
    pub(crate) fn replace(&mut self, key: &str, ty: u32, value: &[u8]) {
        self.remove(key);
        self.pair(key, ty, value);
    }

    pub(crate) fn remove(&mut self, key: &str) {
        let start = string(key);
        let before = self.pairs.len();
        self.pairs.retain(|pair| !pair.starts_with(&start));
        assert_eq!(self.pairs.len() + 1, before, "{key} was there");
    }

    /// A tensor of the right size, of bytes that are no special number.
    pub(crate) fn tensor(&mut self, name: &str, dims: &[u64], ty: u32) {
        let elements: u64 = dims.iter().product();
        let size = if ty == F32 { elements * 4 } else { elements / 32 * 18 };
        let data = (0..size).map(|i| (i % 61) as u8).collect();
        self.tensors.push(Tensor { name: name.to_owned(), dims: dims.to_vec(), ty, data, offset: None });
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.pair_count.unwrap_or(self.pairs.len() as u64).to_le_bytes());
        out.extend(self.pairs.concat());
        let mut data = Vec::new();
        for tensor in &self.tensors {
            data.resize(data.len().next_multiple_of(self.alignment), 0);
            out.extend(string(&tensor.name));
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(tensor.ty.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.data);
        }
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(data);
        out
    }
}
