//! The built program from outside: exit codes, one-line errors, what verbs print. No network: every
//! process gets an empty home and `HF_HUB_OFFLINE`.

use std::path::Path;
use std::process::{Command, Output};

fn sconce(home: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sconce"))
        .args(args)
        .env_clear()
        .env("HOME", home)
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .expect("run sconce")
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// The one line of a failure with this exit code.
fn failure(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let text = String::from_utf8(output.stderr.clone()).expect("UTF-8");
    assert_eq!(text.lines().count(), 1, "{text}");
    text.trim_end().to_owned()
}

#[test]
fn help_names_every_verb() {
    let home = tempfile::tempdir().unwrap();
    let help = stdout(&sconce(home.path(), &["--help"]));
    for verb in ["serve", "run", "plan", "pull", "list", "completions"] {
        assert!(help.contains(verb), "{verb} in {help}");
    }
    assert!(stdout(&sconce(home.path(), &["completions", "bash"])).contains("--max-num-seqs"));
}

#[test]
fn a_fresh_machine_lists_the_aliases_also_into_a_pipe() {
    let home = tempfile::tempdir().unwrap();
    let list = stdout(&sconce(home.path(), &["list"]));
    assert!(list.contains("none yet") && list.contains("smollm2-135m"), "{list}");
}

#[test]
fn the_effective_configuration_is_a_configuration() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("a.toml");
    std::fs::write(&file, "port = 9000\nmax-num-seqs = 5\nstrict-fields = true\n").unwrap();
    let path = file.to_str().unwrap();
    let printed = stdout(&sconce(home.path(), &["serve", "--print-config", "--config", path, "--port", "9001"]));
    for line in ["port = 9001", "max-num-seqs = 5", "strict-fields = true"] {
        assert!(printed.contains(line), "{line} in {printed}");
    }
    let again = home.path().join("b.toml");
    std::fs::write(&again, &printed).unwrap();
    let reprinted = stdout(&sconce(home.path(), &["serve", "--print-config", "--config", again.to_str().unwrap()]));
    let values =
        |text: &str| text.lines().map(|l| l.split(" #").next().unwrap_or("").trim_end().to_owned()).collect::<Vec<_>>();
    assert_eq!(values(&printed), values(&reprinted));
}

#[test]
fn wrong_settings_end_with_code_2_and_one_line() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("a.toml");
    std::fs::write(&file, "prot = 9000\n").unwrap();
    let error = failure(&sconce(home.path(), &["serve", "--config", file.to_str().unwrap()]), 2);
    assert!(error.ends_with("a.toml:1: unknown key `prot`; did you mean `port`?"), "{error}");
    let error = failure(&sconce(home.path(), &["serve", "--host", "0.0.0.0"]), 2);
    assert!(error.contains("--insecure-no-auth"), "{error}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let error = failure(&sconce(home.path(), &["serve", "--port", &port]), 2);
    assert!(error.starts_with("error: port: ") && error.contains("is in use"), "{error}");
}

#[test]
fn a_model_that_is_nowhere_ends_with_code_3_and_one_line() {
    let home = tempfile::tempdir().unwrap();
    for verb in ["pull", "plan", "run"] {
        let error = failure(&sconce(home.path(), &[verb, "smollm2-135m"]), if verb == "run" { 1 } else { 3 });
        let expected = if verb == "run" { "stdin is empty" } else { "HF_HUB_OFFLINE is set" };
        assert!(error.contains(expected), "{error}");
    }
    let error = failure(&sconce(home.path(), &["pull", "./missing.gguf"]), 3);
    assert_eq!(error, "error: no such file or folder: ./missing.gguf");
}

#[test]
fn a_broken_model_is_a_one_line_error() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("broken.gguf");
    std::fs::write(&file, b"GGUF\x03\0\0\0 not much of a model").unwrap();
    let path = file.to_str().unwrap();
    for args in [&["plan", path][..], &["run", path, "hi"], &["serve", path, "--port", "0"]] {
        let error = failure(&sconce(home.path(), args), 1);
        assert!(error.contains("broken.gguf"), "{error}");
    }
}

#[test]
fn plan_reads_headers_only_and_says_what_fits() {
    let home = tempfile::tempdir().unwrap();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/gguf/llama-q4_0.gguf");
    let text = stdout(&sconce(home.path(), &["plan", model, "--kv-cache-memory", "64MiB", "--max-num-seqs", "4"]));
    for word in
        ["llama-q4_0", "weights", "a token (f16)", "64.00 MiB reserved", "sequences that fit at once", "runs 4 at once"]
    {
        assert!(text.contains(word), "{word} in {text}");
    }
    let error = failure(&sconce(home.path(), &["serve", model, "--port", "0", "--kv-cache-memory", "900TiB"]), 1);
    assert!(error.contains("kv-cache-memory: 900.00 TiB is more than"), "{error}");
    let text = stdout(&sconce(home.path(), &["plan", model, "--gpu-memory", "2GiB"]));
    for word in ["a GPU like H100, bf16", "penalty counts", "context, libraries, graphs", "a token (bf16)"] {
        assert!(text.contains(word), "{word} in {text}");
    }
    let error = failure(&sconce(home.path(), &["plan", model, "--gpu-memory", "200MiB"]), 1);
    assert!(error.contains("can't take") && error.contains("of device memory"), "{error}");
    let error = failure(&sconce(home.path(), &["plan", model, "--max-model-len", "99999999"]), 2);
    assert!(error.contains("max-model-len"), "{error}");
}
