//! Which files of a repository are the model: safetensors with their configuration, or one GGUF file
//! (all its parts). Used on the hub's listing and on a cached snapshot alike.

use super::HubError;

/// The files to have, in the order to download them: what completes the model comes last, so that a
/// snapshot whose last file is there is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selection {
    /// Repository-relative names.
    pub(super) files: Vec<String>,
    /// The GGUF file to open; `None`: the folder itself (safetensors).
    pub(super) gguf: Option<String>,
}

/// A part of a split GGUF file, `stem-00001-of-00003.gguf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SplitPart<'a> {
    pub(super) stem: &'a str,
    pub(super) index: u32,
    pub(super) count: u32,
}

/// Reads the name of a part; `None` for a file that isn't split.
pub(super) fn split_part(name: &str) -> Option<SplitPart<'_>> {
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, index) = rest.rsplit_once('-')?;
    let number = |s: &str| (s.len() == 5).then(|| s.parse::<u32>().ok()).flatten();
    let (index, count) = (number(index)?, number(count)?);
    (index >= 1 && index <= count).then_some(SplitPart { stem, index, count })
}

pub(super) fn part_name(stem: &str, index: u32, count: u32) -> String {
    format!("{stem}-{index:05}-of-{count:05}.gguf")
}

/// True for a relative path that stays below its folder on every system.
pub(super) fn is_safe_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 512
        && !name.contains(['\\', ':'])
        && !name.chars().any(char::is_control)
        && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

/// Order of preference among quantisations when none is named: small loss first, then size.
const PREFERRED: &[&str] =
    &["q4_k_m", "q4_k_s", "q5_k_m", "q4_1", "q4_0", "q5_k_s", "q8_0", "q6_k", "q5_1", "q5_0", "q3_k_m", "bf16", "f16"];

const SIDECARS: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
];

/// Chooses among `files` of `repo`. Without a selector safetensors win over GGUF.
///
/// # Errors
/// [`HubError::UnsafeName`] when any name could leave the folder, [`HubError::NoMatch`] when nothing
/// or too much matches.
pub(super) fn select(repo: &str, files: &[String], selector: Option<&str>) -> Result<Selection, HubError> {
    if let Some(name) = files.iter().find(|name| !is_safe_name(name)) {
        return Err(HubError::UnsafeName { repo: repo.to_owned(), name: name.clone() });
    }
    if selector.is_none()
        && let Some(selection) = safetensors(files)
    {
        return Ok(selection);
    }
    gguf(repo, files, selector)
}

fn safetensors(files: &[String]) -> Option<Selection> {
    let has = |name: &str| files.iter().any(|f| f == name);
    let top = |f: &&String| !f.contains('/') && f.ends_with(".safetensors");
    let index = files.iter().find(|f| !f.contains('/') && f.ends_with(".safetensors.index.json"));
    let weights: Vec<String> = match index {
        Some(index) => {
            let prefix = format!("{}-", index.trim_end_matches(".safetensors.index.json"));
            files.iter().filter(top).filter(|f| f.starts_with(&prefix)).cloned().collect()
        }
        None if has("model.safetensors") => vec!["model.safetensors".to_owned()],
        // `consolidated` is the same weights in another layout, `adapter` is no model.
        None => {
            let other = |f: &&String| f.starts_with("consolidated") || f.starts_with("adapter");
            files.iter().filter(top).filter(|f| !other(f)).cloned().collect()
        }
    };
    if weights.is_empty() || !has("config.json") {
        return None;
    }
    let sidecars = SIDECARS.iter().filter(|name| has(name)).map(|name| (*name).to_owned());
    Some(Selection { files: sidecars.chain(index.cloned()).chain(weights).collect(), gguf: None })
}

fn gguf(repo: &str, files: &[String], selector: Option<&str>) -> Result<Selection, HubError> {
    // One candidate a model: the first part stands for a split file.
    let candidates: Vec<&str> = files
        .iter()
        .map(String::as_str)
        .filter(|f| f.to_ascii_lowercase().ends_with(".gguf") && split_part(f).is_none_or(|p| p.index == 1))
        .filter(|f| !["mmproj", "imatrix"].iter().any(|word| base(f).contains(word)))
        .collect();
    let fail = |problem: String| {
        let candidates = candidates.iter().map(|c| (*c).to_owned()).collect();
        Err(HubError::NoMatch { repo: repo.to_owned(), problem, candidates })
    };
    let chosen = match selector {
        Some(wanted) => match &matching(&candidates, wanted)[..] {
            [one] => *one,
            [] => return fail(format!("no GGUF file for `{wanted}`")),
            several => return fail(format!("{} GGUF files for `{wanted}`, name one in full", several.len())),
        },
        None => match preferred(&candidates) {
            Some(one) => one,
            None => return fail("neither safetensors with config.json nor one GGUF file to prefer".to_owned()),
        },
    };
    let parts = match split_part(chosen) {
        Some(part) => (1..=part.count).map(|i| part_name(part.stem, i, part.count)).collect(),
        None => vec![chosen.to_owned()],
    };
    if let Some(missing) = parts.iter().find(|part| !files.contains(part)) {
        return fail(format!("no {missing}, a part of the model"));
    }
    Ok(Selection { files: parts, gguf: Some(chosen.to_owned()) })
}

/// Lower-case file name without folders.
fn base(file: &str) -> String {
    file.rsplit('/').next().unwrap_or(file).to_ascii_lowercase()
}

/// Exact names first, then `wanted` as a whole word of the name, then anywhere in it.
fn matching<'a>(candidates: &[&'a str], wanted: &str) -> Vec<&'a str> {
    let wanted = wanted.to_ascii_lowercase();
    let exact = |f: &&&str| f.eq_ignore_ascii_case(&wanted) || base(f) == base(&wanted);
    let word = |f: &&&str| base(f).split(['-', '.']).any(|w| w == wanted);
    let anywhere = |f: &&&str| f.to_ascii_lowercase().contains(&wanted);
    let pick = |rule: &dyn Fn(&&&'a str) -> bool| candidates.iter().filter(|f| rule(f)).copied().collect::<Vec<_>>();
    [pick(&exact), pick(&word), pick(&anywhere)].into_iter().find(|found| !found.is_empty()).unwrap_or_default()
}

fn preferred<'a>(candidates: &[&'a str]) -> Option<&'a str> {
    if let [one] = candidates {
        return Some(one);
    }
    PREFERRED.iter().find_map(|quant| match &matching(candidates, quant)[..] {
        [one] => Some(*one),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(files: &[&str], selector: Option<&str>) -> Result<Selection, String> {
        let files: Vec<String> = files.iter().map(|f| (*f).to_owned()).collect();
        select("o/r", &files, selector).map_err(|e| e.to_string())
    }

    #[test]
    fn split_names() {
        assert_eq!(split_part("a-b-00002-of-00003.gguf"), Some(SplitPart { stem: "a-b", index: 2, count: 3 }));
        for name in
            ["a.gguf", "a-2-of-3.gguf", "a-00004-of-00003.gguf", "a-00000-of-00003.gguf", "a-00001-of-00003.bin"]
        {
            assert_eq!(split_part(name), None, "{name}");
        }
    }

    #[test]
    fn safetensors_without_the_rest_of_the_repository() {
        let files = [
            "pytorch_model.bin",
            "model.safetensors",
            "config.json",
            "tokenizer.json",
            "README.md",
            "onnx/model.onnx",
            "consolidated.safetensors",
            "chat_template.jinja",
            "x-Q4_K_M.gguf",
            "generation_config.json",
        ];
        let expected =
            ["config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"];
        let selection = pick(&files, None).unwrap();
        assert_eq!((selection.files, selection.gguf), (expected.map(str::to_owned).to_vec(), None));
        let sharded = [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "consolidated.safetensors",
        ];
        let files = pick(&sharded, None).unwrap().files;
        assert_eq!(files[1], "model.safetensors.index.json");
        assert_eq!(files.len(), 4);
    }

    #[test]
    fn quantisations() {
        let files =
            ["m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m-Q4_0.gguf", "m-Q4_0_4_4.gguf", "m-Q8_0.gguf", "mmproj-m-Q8_0.gguf"];
        let gguf = |selector| pick(&files, selector).map(|s| s.gguf.unwrap());
        assert_eq!(gguf(None).unwrap(), "m-Q4_K_M.gguf");
        assert_eq!(gguf(Some("q8_0")).unwrap(), "m-Q8_0.gguf");
        assert_eq!(gguf(Some("Q4_0")).unwrap(), "m-Q4_0.gguf");
        assert_eq!(gguf(Some("m-q4_k_s.gguf")).unwrap(), "m-Q4_K_S.gguf");
        let error = gguf(Some("Q4_K")).unwrap_err();
        assert!(error.contains("2 GGUF files for `Q4_K`") && error.contains("m-Q8_0.gguf"), "{error}");
        let error = gguf(Some("Q2_K")).unwrap_err();
        assert!(error.contains("no GGUF file for `Q2_K`; candidates: m-Q4_K_M.gguf, "), "{error}");
        assert!(pick(&["README.md"], None).unwrap_err().ends_with("candidates: none"));
    }

    #[test]
    fn split_files_need_all_parts() {
        let parts = ["q/m-Q4_K_M-00001-of-00002.gguf", "q/m-Q4_K_M-00002-of-00002.gguf"];
        let selection = pick(&parts, Some("Q4_K_M")).unwrap();
        assert_eq!(selection.gguf.as_deref(), Some(parts[0]));
        assert_eq!(selection.files, parts);
        assert!(pick(&parts[..1], None).unwrap_err().contains("no q/m-Q4_K_M-00002-of-00002.gguf"));
    }

    #[test]
    fn names_that_climb_are_refused() {
        for name in
            ["../x.gguf", "/etc/x.gguf", "a/../x.gguf", "a\\x.gguf", "C:x.gguf", "a//b.gguf", "./x.gguf", "a\0.gguf"]
        {
            let error = pick(&["ok.gguf", name], None).unwrap_err();
            assert!(error.contains("not a safe path"), "{name}: {error}");
        }
    }
}
