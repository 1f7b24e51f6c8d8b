//! What `serve` prints: the effective configuration, the start-up phases, the address and a `curl` line.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::ui;

/// Times of the start-up phases, from the start of the process.
#[derive(Debug)]
pub(super) struct Phases {
    started: Instant,
    last: Instant,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    name: &'static str,
    time: Duration,
    /// Contained in the phase before it.
    part: bool,
}

impl Phases {
    pub(super) fn new(started: Instant) -> Self {
        Self { started, last: started, rows: Vec::new() }
    }

    /// Everything since the previous call was this phase.
    pub(super) fn done(&mut self, name: &'static str) {
        let now = Instant::now();
        self.rows.push(Row { name, time: now.duration_since(self.last), part: false });
        self.last = now;
    }

    /// A part of the phase that `done` named last, timed elsewhere.
    pub(super) fn part(&mut self, name: &'static str, time: Duration) {
        self.rows.push(Row { name, time, part: true });
    }

    /// Names and times, parts included.
    pub(super) fn times(&self) -> impl Iterator<Item = (&'static str, Duration)> {
        self.rows.iter().map(|row| (row.name, row.time))
    }

    pub(super) fn table(&self) -> String {
        let seconds = |time: Duration| format!("{:>9.3} s", time.as_secs_f64());
        let indent = |row: &Row| if row.part { format!("  {}", row.name) } else { row.name.to_owned() };
        let mut rows: Vec<(String, String)> = self.rows.iter().map(|row| (indent(row), seconds(row.time))).collect();
        rows.push(("total".to_owned(), seconds(self.last.duration_since(self.started))));
        ui::table(&rows)
    }
}

/// How a client shows its key, in shell syntax.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeyHint {
    /// No key is asked for.
    None,
    /// The key itself: only for a terminal that its owner looks at.
    Literal(String),
    /// The first key of a file.
    File(String),
    /// A variable that the reader has to set.
    Variable,
}

/// Contexts below this many tokens may not hold a greeting's answer beside its prompt.
const SHORT_CONTEXT: usize = 256;

/// A command that works when pasted into a shell on this machine, for a model of so many tokens of context.
pub(super) fn curl(address: SocketAddr, model: &str, (chat, context): (bool, usize), key: &KeyHint) -> String {
    let (route, mut body) = match chat {
        true => (
            "chat/completions",
            serde_json::json!({
                "model": model, "messages": [{"role": "user", "content": "Say hello in one sentence."}],
            }),
        ),
        false => ("completions", serde_json::json!({"model": model, "prompt": "Once upon a time"})),
    };
    // Without it an answer takes what the prompt leaves.
    if context >= SHORT_CONTEXT {
        body["max_tokens"] = 48.into();
    }
    let auth = match key {
        KeyHint::None => String::new(),
        KeyHint::Literal(key) => format!(" -H {}", quoted(&format!("authorization: Bearer {key}"))),
        KeyHint::File(path) => {
            let first = format!("grep -v -e '^#' -e '^$' {} | head -n 1", quoted(path));
            format!(" -H \"authorization: Bearer $({first})\"")
        }
        KeyHint::Variable => " -H \"authorization: Bearer $API_KEY\"".to_owned(),
    };
    let url = format!("http://{}/v1/{route}", reachable(address));
    format!("curl {url} -H 'content-type: application/json'{auth} -d {}", quoted(&body.to_string()))
}

/// An address to connect to: the unspecified one is only good for listening.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// In single quotes for a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a shell makes of the command's words.
    fn words(command: &str) -> Vec<String> {
        let script = format!("curl() {{ for w in \"$@\"; do printf '%s\\n' \"$w\"; done; }}\n{command}\n");
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_curl_line_survives_a_shell() {
        let address = "0.0.0.0:81".parse().unwrap();
        let words = words(&curl(address, "it's \"a\" $model", (true, 4096), &KeyHint::None));
        assert_eq!(words[0], "http://127.0.0.1:81/v1/chat/completions");
        let body: serde_json::Value = serde_json::from_str(words.last().unwrap()).unwrap();
        assert_eq!((&body["model"], &body["max_tokens"]), (&"it's \"a\" $model".into(), &48.into()));
    }

    #[test]
    fn the_key_is_sent_in_every_form() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("it's keys");
        std::fs::write(&file, "# first\n\nsk-1\nsk-2\n").unwrap();
        let address = "[::]:81".parse().unwrap();
        for (hint, expected) in [
            (KeyHint::Literal("sk-$1".to_owned()), "authorization: Bearer sk-$1"),
            (KeyHint::File(file.display().to_string()), "authorization: Bearer sk-1"),
        ] {
            let words = words(&curl(address, "m", (false, 64), &hint));
            assert_eq!(words[0], "http://[::1]:81/v1/completions");
            assert!(words.iter().any(|w| w == expected), "{words:?}");
            assert!(!words.last().unwrap().contains("max_tokens"), "a short context: {words:?}");
        }
    }

    #[test]
    fn phases_add_up() {
        let mut phases = Phases::new(Instant::now());
        phases.done("load");
        phases.part("read", Duration::from_millis(1500));
        let table = phases.table();
        assert!(table.contains("read") && table.contains("1.500 s") && table.lines().count() == 3, "{table}");
        assert_eq!(phases.times().count(), 2);
    }
}
