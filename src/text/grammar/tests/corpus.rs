//! Three thousand schemas from the wild: each compiles or is refused with a reason, walks under those that
//! compile are valid, and values that a validator refuses are refused.
//!
//! Needs `../shared/data` beside the checkout, or `SCONCE_TEST_SCHEMAS` naming the file. With `SCONCE_TEST_REFUSALS`
//! set, every refusal is printed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::walk::{judge, parsed, walk};
use super::*;

const FILE: &str = "../shared/data/jsonschemabench-3000.jsonl.gz";

#[derive(Default)]
struct Counts {
    compiled: usize,
    refused: BTreeMap<String, usize>,
    slowest: Duration,
    slowest_id: String,
    walks: usize,
    unfinished: usize,
    invalid_walks: Vec<String>,
    values: usize,
    wrongly_accepted: Vec<String>,
    wrongly_refused: Vec<String>,
    valid_values: usize,
    costly: usize,
}

#[test]
fn schemas_from_the_wild_compile_or_are_refused() {
    let path = std::env::var_os("SCONCE_TEST_SCHEMAS").map(PathBuf::from);
    let path = path.unwrap_or_else(|| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE));
    if !path.exists() {
        println!("SKIPPED: {} isn't there", path.display());
        return;
    }
    let unpacked = Command::new("gzip").arg("-dc").arg(&path).output().expect("gzip");
    let lines: Vec<&str> = std::str::from_utf8(&unpacked.stdout).unwrap().lines().collect();
    assert!(lines.len() >= 3000, "{} schemas", lines.len());
    let (bench, counts, next) = (Bench::byte_level(), Mutex::new(Counts::default()), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(line) = lines.get(i) else { break };
                    one(&bench, line, i, &counts);
                }
            });
        }
    });
    report(&counts.into_inner().unwrap(), lines.len());
}

fn one(bench: &Bench, line: &str, index: usize, counts: &Mutex<Counts>) {
    let entry: Value = serde_json::from_str(line).unwrap();
    let (id, schema) = (entry["id"].to_string(), entry["schema"].clone());
    let schema = match schema {
        Value::String(text) => serde_json::from_str(&text).unwrap(),
        other => other,
    };
    let spec = GrammarSpec::JsonSchema(schema.clone());
    let start = Instant::now();
    let outcome = bench.compiler.compile(&spec);
    let took = start.elapsed();
    let mut counts_now = counts.lock().unwrap();
    if took > counts_now.slowest {
        (counts_now.slowest, counts_now.slowest_id) = (took, id.clone());
    }
    let compiled = match outcome {
        Ok(compiled) => compiled,
        Err(error) => {
            *counts_now.refused.entry(kind(&error)).or_default() += 1;
            if std::env::var_os("SCONCE_TEST_REFUSALS").is_some() {
                println!("refused {id}: {error}");
            }
            return;
        }
    };
    counts_now.compiled += 1;
    drop(counts_now);
    let Some(judge) = judge(&schema) else { return };
    let mut rng = StdRng::seed_from_u64(index as u64);
    let mut matcher = compiled.matcher();
    let output = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| walk(bench, &mut matcher, &mut rng, 400)));
    let mut counts_now = counts.lock().unwrap();
    counts_now.walks += 1;
    let Ok(output) = output else {
        counts_now.costly += 1;
        println!("walk failed: {id}");
        return;
    };
    let Some(output) = output else {
        counts_now.unfinished += 1;
        return;
    };
    drop(counts_now);
    let Some(value) = parsed(&output) else { return };
    if !judge.is_valid(&value) {
        let why = judge.iter_errors(&value).next().map(|e| format!("{e} at {}", e.schema_path())).unwrap_or_default();
        counts.lock().unwrap().invalid_walks.push(format!("{id}: {why}: {output}"));
        return;
    }
    for _ in 0..6 {
        let mut changed = value.clone();
        change(&mut changed, &mut rng);
        let text = changed.to_string();
        let mut matcher = compiled.matcher();
        let (taken, ends) = bench.follow(&mut matcher, &text);
        let accepted = taken == text.len() && ends;
        let mut counts = counts.lock().unwrap();
        counts.values += 1;
        counts.valid_values += usize::from(judge.is_valid(&changed));
        match (judge.is_valid(&changed), accepted) {
            (false, true) => counts.wrongly_accepted.push(format!("{id}: {text}")),
            (true, false) => counts.wrongly_refused.push(format!("{id} at {taken}: {text}")),
            _ => {}
        }
    }
}

/// One small change somewhere in a value.
fn change(value: &mut Value, rng: &mut StdRng) {
    let others =
        [json!(null), json!(true), json!(0), json!(-7), json!(2.5), json!(""), json!("zz"), json!([]), json!({})];
    match value {
        Value::Object(map) if !map.is_empty() && rng.random_bool(0.7) => {
            let key = map.keys().nth(rng.random_range(0..map.len())).cloned().unwrap();
            if rng.random_bool(0.25) {
                map.shift_remove(&key);
            } else {
                change(&mut map[&key], rng);
            }
        }
        Value::Object(map) if rng.random_bool(0.5) => {
            map.insert("zz".to_owned(), others[rng.random_range(0..others.len())].clone());
        }
        Value::Array(list) if !list.is_empty() && rng.random_bool(0.7) => {
            let at = rng.random_range(0..list.len());
            match rng.random_range(0..3) {
                0 => drop(list.remove(at)),
                1 => list.insert(at, list[at].clone()),
                _ => change(&mut list[at], rng),
            }
        }
        Value::String(text) if rng.random_bool(0.5) => text.push('x'),
        _ => *value = others[rng.random_range(0..others.len())].clone(),
    }
}

fn kind(error: &GrammarError) -> String {
    match error {
        GrammarError::Keyword { keyword, reason, .. } if keyword == "format" => {
            format!("keyword format {}", reason.split(' ').next().unwrap_or_default())
        }
        GrammarError::Keyword { keyword, .. } => format!("keyword {keyword}"),
        GrammarError::Malformed { message, .. } => format!("malformed: {message}"),
        GrammarError::Limit { what, .. } => format!("limit: {what}"),
        GrammarError::Unsatisfiable(_) => "unsatisfiable".to_owned(),
        other => other.to_string().chars().take(110).collect(),
    }
}

fn report(counts: &Counts, total: usize) {
    println!("{total} schemas: {} compiled, {} refused", counts.compiled, counts.refused.values().sum::<usize>());
    let mut refused: Vec<_> = counts.refused.iter().collect();
    refused.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
    for (kind, n) in refused {
        println!("{n:6}  {kind}");
    }
    println!("slowest {:?}: {}", counts.slowest, counts.slowest_id);
    println!(
        "{} walks, {} unfinished, {} failed, {} invalid",
        counts.walks,
        counts.unfinished,
        counts.costly,
        counts.invalid_walks.len()
    );
    println!(
        "{} changed values, {} of them valid: {} wrongly accepted, {} wrongly refused",
        counts.values,
        counts.valid_values,
        counts.wrongly_accepted.len(),
        counts.wrongly_refused.len()
    );
    let shown =
        counts.invalid_walks.iter().chain(&counts.wrongly_accepted).chain(counts.wrongly_refused.iter().take(12));
    for line in shown {
        println!("  {}", line.chars().take(400).collect::<String>());
    }
    assert_eq!(counts.compiled + counts.refused.values().sum::<usize>(), total);
    assert!(counts.compiled >= 2780, "fewer than when this was written");
    // Wall time, on machines that do other things too: this is about what never ends.
    assert!(counts.slowest < Duration::from_secs(60), "{:?}", counts.slowest);
    assert!(counts.costly <= 2 && counts.wrongly_refused.len() <= 10, "see above");
    assert!(counts.invalid_walks.is_empty() && counts.wrongly_accepted.is_empty(), "see above");
}
