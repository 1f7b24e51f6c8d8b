//! The import order of the crates and of the modules of `src`, enforced by reading the sources.
//!
//! `ALLOWED` is the whole rule: a module may name only the modules and workspace crates in its row.
//! The compiler already keeps `kernels < models < src`; the manifests are checked so that an
//! added dependency can't turn that round. Unit tests (`tests.rs`, or a file from `#[cfg(test)] mod` on) are free.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Module of `src`, the modules it may import, and the workspace crates (or their modules) it may import.
const ALLOWED: &[(&str, &[&str], &[&str])] = &[
    ("types", &[], &[]),
    ("config", &["types"], &[]),
    ("telemetry", &["types"], &[]),
    ("kv", &["types", "telemetry"], &["sconce_kernels::kv"]),
    ("scheduler", &["types", "telemetry", "kv"], &[]),
    ("sampler", &["types"], &["sconce_kernels"]),
    ("runner", &["types", "telemetry", "sampler"], &["sconce_kernels", "sconce_models"]),
    ("engine", &["types", "telemetry", "kv", "scheduler", "runner", "sampler"], &["sconce_kernels", "sconce_models"]),
    ("text", &["types", "telemetry"], &["sconce_models"]),
    ("http", &["types", "telemetry", "engine", "text", "config"], &[]),
    (
        "runtime",
        &["types", "telemetry", "kv", "scheduler", "runner", "sampler", "engine", "text", "config"],
        &["sconce_kernels", "sconce_models"],
    ),
    ("hub", &["types", "telemetry", "config"], &["sconce_models"]),
    ("bench", &["types"], &[]),
    (
        "check",
        &["types", "telemetry", "config", "engine", "runner", "text", "http", "bench", "runtime"],
        &["sconce_kernels", "sconce_models"],
    ),
    (
        "cli",
        &[
            "types",
            "telemetry",
            "kv",
            "scheduler",
            "runner",
            "sampler",
            "engine",
            "text",
            "http",
            "config",
            "hub",
            "bench",
            "runtime",
            "check",
        ],
        &["sconce_kernels", "sconce_models"],
    ),
];

#[test]
fn modules_import_only_what_lies_below_them() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut violations = Vec::new();
    let mut checked = 0;
    for file in rust_files(&src) {
        let relative = file.strip_prefix(&src).expect("below src");
        let module = module_of(relative);
        let is_unit_test = relative.iter().any(|part| part == "tests" || part == "tests.rs");
        if module == "lib" || module == "main" || is_unit_test {
            continue;
        }
        checked += 1;
        let text = fs::read_to_string(&file).expect("source file");
        violations
            .extend(violations_in(&module, &text).into_iter().map(|v| format!("src/{}: {v}", relative.display())));
    }
    assert!(checked > 0, "no source file was read");
    assert!(violations.is_empty(), "imports against the layering:\n{}", violations.join("\n"));
}

#[test]
fn crates_depend_only_on_crates_below_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, forbidden) in [("kernels", &["sconce", "sconce-models"][..]), ("models", &["sconce"][..])] {
        let manifest: toml::Table =
            fs::read_to_string(root.join(name).join("Cargo.toml")).expect("manifest").parse().expect("TOML");
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(dependencies) = manifest.get(table).and_then(|t| t.as_table()) else { continue };
            for crate_name in forbidden {
                assert!(!dependencies.contains_key(*crate_name), "{name}/Cargo.toml: [{table}] names {crate_name}");
            }
        }
    }
}

#[test]
fn planted_violations_are_found() {
    let planted = [
        ("scheduler", "use crate::engine::EngineHandle;"),
        ("http", "use sconce_kernels::kv::KvArena;"),
        ("kv", "use sconce_kernels::linear::Linear;"),
        ("text", "fn f() { crate::http::serve() }"),
        ("types", "pub use crate::{kv::BlockId};"),
        ("telemetry", "use crate::{types::SeqId, scheduler::{Batch, Plan}};"),
        ("kv", "use sconce_kernels::{kv::CacheKind, linear};"),
        ("unknown", "use std::fmt;"),
    ];
    for (module, text) in planted {
        assert!(!violations_in(module, text).is_empty(), "not found: {module}: {text}");
    }
    let clean = [
        ("scheduler", "use crate::kv::BlockId;\n// crate::engine owns this\nuse crate::scheduler::policy;"),
        ("kv", "use sconce_kernels::kv::{CacheKind, KvDtype};"),
        ("types", "pub(crate) fn f() {}\n#[cfg(test)]\nmod tests {\n use crate::engine::EngineHandle;\n}"),
    ];
    for (module, text) in clean {
        assert_eq!(violations_in(module, text), Vec::<String>::new(), "{module}");
    }
}

/// What `text`, a file of `module`, imports against the table.
fn violations_in(module: &str, text: &str) -> Vec<String> {
    let Some((_, modules, crates)) = ALLOWED.iter().find(|(name, ..)| *name == module) else {
        return vec![format!("module `{module}` has no row in tests/layering.rs")];
    };
    let code = code_of(text);
    let mut found = BTreeSet::new();
    for target in targets_after(&code, "crate::") {
        let is_layer = ALLOWED.iter().any(|(name, ..)| *name == target);
        if is_layer && target != module && !modules.contains(&target.as_str()) {
            found.insert(format!("`{module}` may not import `crate::{target}`"));
        }
    }
    for name in ["sconce_kernels", "sconce_models"] {
        if crates.contains(&name) {
            continue;
        }
        for target in targets_after(&code, &format!("{name}::")) {
            let path = format!("{name}::{target}");
            if !crates.contains(&path.as_str()) {
                found.insert(format!("`{module}` may not import `{path}`"));
            }
        }
    }
    found.into_iter().collect()
}

/// The source without line comments and without the unit tests at its end.
fn code_of(text: &str) -> String {
    let mut lines = Vec::new();
    let mut all = text.lines().peekable();
    while let Some(line) = all.next() {
        let next = all.peek().map_or("", |l| l.trim_start());
        if line == "#[cfg(test)]" && next.starts_with("mod ") && next.ends_with('{') {
            break;
        }
        lines.push(line.split("//").next().unwrap_or(""));
    }
    lines.join("\n")
}

/// First path segments that follow `prefix`: one for `prefix::a::b`, several for `prefix::{a::b, c}`.
fn targets_after(code: &str, prefix: &str) -> Vec<String> {
    let is_ident = |c: char| c.is_alphanumeric() || c == '_';
    let ident = |s: &str| s.trim_start().chars().take_while(|c| is_ident(*c)).collect::<String>();
    let mut targets = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        if code[..at].chars().next_back().is_some_and(|c| is_ident(c) || c == ':') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            targets.push(ident(rest));
            continue;
        };
        let mut depth = 0;
        let mut segment_start = 0;
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    targets.push(ident(&group[segment_start..i]));
                    segment_start = i + 1;
                    if c == '}' {
                        break;
                    }
                }
                _ => {}
            }
        }
    }
    targets.retain(|t| !t.is_empty());
    targets
}

/// `http` for both `http.rs` and `http/routes/chat.rs`.
fn module_of(relative: &Path) -> String {
    let first = relative.components().next().expect("a file below src").as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// Every `.rs` file below a folder, sorted.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("source folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}
