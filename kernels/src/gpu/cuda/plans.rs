//! Which algorithm computes a product: the plans and the text file that keeps the measured ones between runs.
//!
//! Line 1 of the file names what the plans hold for: format, card, compute capability, cublasLt, mode, tab-separated.
//! A plan a line: `m n k f16 out_f32 bias accumulate workspace nanoseconds`, then the eight words of cublasLt's algorithm
//! in hexadecimal, which it documents as good for storing and for the same version only.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use super::super::gemm::GemmShape;

/// First word of the file.
const TITLE: &str = "sconce gemm plans";

/// Changes when the meaning of a line does.
const FORMAT: u32 = 1;

/// Words of an algorithm.
const ALGO_WORDS: usize = 8;

/// An algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// cublasLt's description.
    pub(super) algo: [u64; ALGO_WORDS],
    /// Workspace that it needs, in bytes.
    pub(super) workspace: usize,
    /// Time measured; 0 for a plan that was not.
    pub(super) nanos: u64,
}

/// What measured plans hold for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlanKey {
    /// Card.
    pub(super) name: String,
    /// Compute capability.
    pub(super) compute: (u32, u32),
    /// Version of cublasLt.
    pub(super) library: usize,
}

impl PlanKey {
    fn line(&self) -> String {
        let (name, (major, minor), library) = (self.name.replace(['\t', '\n'], " "), self.compute, self.library);
        format!("{TITLE}\t{FORMAT}\t{name}\t{major}.{minor}\t{library}")
    }
}

/// The file's text.
pub(super) fn write(key: &PlanKey, plans: &BTreeMap<GemmShape, Plan>) -> String {
    let mut text = key.line();
    text.push('\n');
    for (shape, plan) in plans {
        let GemmShape { m, n, k, f16, out_f32, bias, accumulate } = *shape;
        let [f16, out_f32, bias, accumulate] = [f16, out_f32, bias, accumulate].map(u8::from);
        let (workspace, nanos) = (plan.workspace, plan.nanos);
        let _ = write!(text, "{m} {n} {k} {f16} {out_f32} {bias} {accumulate} {workspace} {nanos}");
        for word in plan.algo {
            let _ = write!(text, " {word:016x}");
        }
        text.push('\n');
    }
    text
}

/// The plans of a file's text; otherwise the reason why it is of no use.
pub(super) fn parse(key: &PlanKey, text: &str) -> Result<BTreeMap<GemmShape, Plan>, String> {
    let mut lines = text.lines();
    let found = lines.next().unwrap_or_default();
    if found != key.line() {
        return Err(format!("it is for {found:?}, this is {:?}", key.line()));
    }
    if !text.ends_with('\n') {
        return Err("it was cut off".to_owned());
    }
    let numbered = lines.enumerate();
    numbered.map(|(index, line)| parse_line(line).ok_or_else(|| format!("line {} is no plan", index + 2))).collect()
}

fn parse_line(line: &str) -> Option<(GemmShape, Plan)> {
    let mut words = line.split(' ');
    let mut number = || words.next()?.parse::<usize>().ok();
    let (m, n, k) = (number()?, number()?, number()?);
    let mut flag = || number().and_then(|number| [false, true].get(number).copied());
    let (f16, out_f32, bias, accumulate) = (flag()?, flag()?, flag()?, flag()?);
    let (workspace, nanos) = (number()?, number()? as u64);
    let mut algo = [0; ALGO_WORDS];
    for word in &mut algo {
        *word = u64::from_str_radix(words.next()?, 16).ok()?;
    }
    let shape = GemmShape { m, n, k, f16, out_f32, bias, accumulate };
    words.next().is_none().then_some((shape, Plan { algo, workspace, nanos }))
}

/// Writes the file whole or not at all.
pub(super) fn save(path: &Path, key: &PlanKey, plans: &BTreeMap<GemmShape, Plan>) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let part = path.with_extension(format!("{}.part", std::process::id()));
    fs::write(&part, write(key, plans))?;
    fs::rename(&part, path).inspect_err(|_| drop(fs::remove_file(&part)))
}

/// Reads a file; otherwise the reason why it is of no use. One that is not there has no plans.
pub(super) fn load(path: &Path, key: &PlanKey) -> Result<BTreeMap<GemmShape, Plan>, String> {
    match fs::read_to_string(path) {
        Ok(text) => parse(key, &text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> PlanKey {
        PlanKey { name: "NVIDIA H100 80GB HBM3".to_owned(), compute: (9, 0), library: 130_001 }
    }

    fn plans() -> BTreeMap<GemmShape, Plan> {
        let shape = GemmShape { m: 16, n: 4096, k: 14336, f16: false, out_f32: false, bias: false, accumulate: true };
        let plan = Plan { algo: [1, u64::MAX, 0, 4, 5, 6, 7, 0xabc], workspace: 1 << 20, nanos: 41_250 };
        let logits = GemmShape { m: 1, n: 128_256, out_f32: true, f16: true, bias: true, accumulate: false, ..shape };
        BTreeMap::from([(shape, plan), (logits, Plan { nanos: 1, workspace: 0, ..plan })])
    }

    #[test]
    fn a_file_reads_as_it_was_written() {
        assert_eq!(parse(&key(), &write(&key(), &plans())), Ok(plans()));
        assert_eq!(parse(&key(), &write(&key(), &BTreeMap::new())), Ok(BTreeMap::new()));
    }

    #[test]
    fn the_text_is_plain() {
        let text = write(&key(), &plans());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "sconce gemm plans\t1\tNVIDIA H100 80GB HBM3\t9.0\t130001");
        assert!(lines[1].starts_with("1 128256 14336 1 1 1 0 0 1 0000000000000001 ffffffffffffffff "), "{}", lines[1]);
        assert!(lines[2].starts_with("16 4096 14336 0 0 0 1 1048576 41250 "), "{}", lines[2]);
        assert!(lines[2].ends_with(" 0000000000000abc"), "{}", lines[2]);
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn another_card_or_library_is_refused() {
        let text = write(&key(), &plans());
        for other in [
            PlanKey { name: "NVIDIA H200".to_owned(), ..key() },
            PlanKey { compute: (9, 1), ..key() },
            PlanKey { library: 130_100, ..key() },
        ] {
            let reason = parse(&other, &text).expect_err("another key");
            assert!(reason.contains("H100") && reason.contains("130001"), "{reason}");
        }
        let newer = text.replacen("\t1\t", "\t2\t", 1);
        assert!(parse(&key(), &newer).is_err(), "another format");
    }

    #[test]
    fn a_damaged_file_is_refused_with_the_line() {
        let text = write(&key(), &plans());
        for (damage, with) in
            [("16 4096", "16 x"), (" 0000000000000abc", ""), ("0abc", "0abc 1"), ("1 1 1 0 0 1", "1 2 1 0 0 1")]
        {
            let damaged = text.replacen(damage, with, 1);
            assert_ne!(damaged, text);
            let line = if damage == "16 4096" { 3 } else { 2 };
            assert_eq!(parse(&key(), &damaged).expect_err(damage), format!("line {line} is no plan"), "{damage}");
        }
        assert!(parse(&key(), &text[..text.len() - 3]).is_err(), "cut off");
        assert!(parse(&key(), "").is_err(), "empty");
    }

    #[test]
    fn files_are_replaced_whole() {
        let folder = std::env::temp_dir().join(format!("sconce-plans-{}", std::process::id()));
        let path = folder.join("deep/gemm.plans");
        assert_eq!(load(&path, &key()), Ok(BTreeMap::new()), "not there");
        save(&path, &key(), &plans()).expect("saved");
        save(&path, &key(), &plans()).expect("replaced");
        assert_eq!(load(&path, &key()), Ok(plans()));
        assert_eq!(fs::read_dir(path.parent().expect("folder")).expect("listed").count(), 1, "no part is left");
        fs::remove_dir_all(folder).expect("removed");
    }
}
