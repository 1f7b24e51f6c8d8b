//! One file over HTTP: locked against other processes, resumed where it broke off, checked, then renamed.
//!
//! `target.incomplete` holds what has arrived. A later attempt (of this process or the next) asks for
//! the rest with `Range`; a server that doesn't know ranges sends all of it again.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use reqwest::{StatusCode, header};
use sha2::{Digest, Sha256};

use super::checksum::{Checksum, hex, read_all};
use super::{HubError, Progress};

/// Attempts in a row that bring no byte before we give up.
const FRUITLESS_ATTEMPTS: u32 = 4;

/// A file to have.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) url: reqwest::Url,
    pub(super) token: Option<String>,
    /// Where the whole file goes.
    pub(super) target: PathBuf,
    /// Lock file, held while the partial file is written.
    pub(super) lock: PathBuf,
    /// Name for people.
    pub(super) name: String,
    pub(super) size: Option<u64>,
    /// Where the hub says it.
    pub(super) checksum: Option<Checksum>,
    pub(super) retry_delay: Duration,
    /// How long the client waits for the next bytes.
    pub(super) silence: Duration,
}

/// How one attempt ended.
enum Attempt {
    Complete,
    /// The connection broke; what arrived is kept.
    Broken(String),
    /// Trying again is useless.
    Refused(HubError),
}

/// The partial file and the digest of what is in it.
struct Partial {
    path: PathBuf,
    file: File,
    len: u64,
    digest: Sha256,
}

/// Makes `job.target` exist, complete and checked. Another process may do the work meanwhile.
pub(super) async fn fetch(client: &reqwest::Client, job: &Job, progress: &Progress) -> Result<(), HubError> {
    for dir in [job.target.parent(), job.lock.parent()].into_iter().flatten() {
        std::fs::create_dir_all(dir).map_err(|e| HubError::io(dir, &e))?;
    }
    let _lock = lock(&job.lock, &job.name, progress).await?;
    if job.target.is_file() {
        return Ok(());
    }
    let mut partial = Partial::open(incomplete(&job.target)).await?;
    let resumed = partial.len > 0;
    transfer(client, job, &mut partial, progress).await?;
    match finish(partial, job) {
        // The first part may be of another version of the file: once more, from nothing.
        Err(HubError::Checksum { .. }) if resumed => {
            let mut partial = Partial::open(incomplete(&job.target)).await?;
            transfer(client, job, &mut partial, progress).await?;
            finish(partial, job)
        }
        done => done,
    }
}

pub(super) fn incomplete(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".incomplete");
    PathBuf::from(name)
}

/// Takes the lock, and says so when another process has it. Released when the file is dropped.
pub(super) async fn lock(path: &Path, name: &str, progress: &Progress) -> Result<File, HubError> {
    let error = |e: std::io::Error| HubError::io(path, &e);
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(error)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            progress.line(&format!("waiting for another process that downloads {name}"));
            let path = path.to_owned();
            blocking(move || file.lock().map(|()| file).map_err(|e| HubError::io(&path, &e))).await
        }
        Err(std::fs::TryLockError::Error(e)) => Err(error(e)),
    }
}

/// Disk work off the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HubError> + Send + 'static,
) -> Result<T, HubError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

async fn transfer(
    client: &reqwest::Client,
    job: &Job,
    partial: &mut Partial,
    progress: &Progress,
) -> Result<(), HubError> {
    if job.size.is_some_and(|size| partial.len > size) {
        partial.restart()?;
    }
    let bar = progress.file(&job.name, job.size, partial.len);
    let (mut fruitless, mut delay) = (0, job.retry_delay);
    loop {
        let before = partial.len;
        let reason = match attempt(client, job, partial, &bar).await {
            Attempt::Complete => break,
            Attempt::Refused(error) => return Err(error),
            Attempt::Broken(reason) => reason,
        };
        (fruitless, delay) = if partial.len > before { (0, job.retry_delay) } else { (fruitless + 1, delay * 2) };
        if fruitless >= FRUITLESS_ATTEMPTS {
            let reason = format!("{reason}, {fruitless} times in a row");
            return Err(HubError::Interrupted { file: job.name.clone(), reason });
        }
        let count = if fruitless > 0 { format!(" ({} of {FRUITLESS_ATTEMPTS})", fruitless + 1) } else { String::new() };
        progress.line(&format!("{}: {reason}; trying again{count}", job.name));
        tokio::time::sleep(delay).await;
    }
    bar.finish_and_clear();
    Ok(())
}

async fn attempt(client: &reqwest::Client, job: &Job, partial: &mut Partial, bar: &indicatif::ProgressBar) -> Attempt {
    if job.size == Some(partial.len) {
        return Attempt::Complete;
    }
    // Ranges count bytes of the file, so it must not come compressed.
    let mut request = client.get(job.url.clone()).header(header::ACCEPT_ENCODING, "identity");
    if let Some(token) = &job.token {
        request = request.bearer_auth(token);
    }
    if partial.len > 0 {
        request = request.header(header::RANGE, format!("bytes={}-", partial.len));
    }
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) => return job.broken(&error),
    };
    if let Err(end) = place(&response, job, partial) {
        return end;
    }
    bar.set_position(partial.len);
    receive(response, job, partial, bar).await
}

/// Puts the write position where the body that follows belongs.
fn place(response: &reqwest::Response, job: &Job, partial: &mut Partial) -> Result<(), Attempt> {
    let restart = |partial: &mut Partial| partial.restart().map_err(Attempt::Refused);
    match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            let range = response.headers().get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok());
            if range.is_some_and(|r| r.starts_with(&format!("bytes {}-", partial.len))) {
                return Ok(());
            }
            restart(partial)?;
            Err(Attempt::Broken("the server sent another range than the one asked for".to_owned()))
        }
        StatusCode::OK => restart(partial),
        StatusCode::RANGE_NOT_SATISFIABLE => {
            restart(partial)?;
            Err(Attempt::Broken("the partial file is longer than the file".to_owned()))
        }
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            Err(Attempt::Broken(format!("the server answered {status}")))
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err(Attempt::Refused(HubError::AccessDenied { repo: job.name.clone() }))
        }
        status => Err(Attempt::Refused(HubError::BadAnswer {
            repo: job.name.clone(),
            reason: format!("{} answered {status}", job.url),
        })),
    }
}

async fn receive(
    response: reqwest::Response,
    job: &Job,
    partial: &mut Partial,
    bar: &indicatif::ProgressBar,
) -> Attempt {
    let expected = job.size.or_else(|| response.content_length().map(|rest| rest + partial.len));
    let mut body = response.bytes_stream();
    while let Some(chunk) = body.next().await {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => return job.broken(&error),
        };
        if let Err(error) = partial.write(&chunk) {
            return Attempt::Refused(error);
        }
        if expected.is_some_and(|size| partial.len > size) {
            // More than was promised is another file; never fill a disk with it.
            return match partial.restart() {
                Ok(()) => Attempt::Broken("the server sent more bytes than the file has".to_owned()),
                Err(error) => Attempt::Refused(error),
            };
        }
        bar.set_position(partial.len);
    }
    match expected {
        Some(size) if partial.len < size => Attempt::Broken(format!("{} of {size} bytes arrived", partial.len)),
        _ => Attempt::Complete,
    }
}

/// Checks the digest and gives the file its name.
fn finish(partial: Partial, job: &Job) -> Result<(), HubError> {
    let Partial { path, mut file, digest, .. } = partial;
    if let Some(checksum) = &job.checksum {
        let found = match checksum {
            // Computed as the bytes came.
            Checksum::Sha256(_) => hex(digest),
            // Begins with the length; such files are small.
            Checksum::GitBlob(_) => checksum.of(&mut file).map_err(|e| HubError::io(&path, &e))?,
        };
        if let Err(damaged) = checksum.expect(found, &job.name) {
            std::fs::remove_file(&path).map_err(|e| HubError::io(&path, &e))?;
            return Err(damaged);
        }
    }
    // On disk before it has its name: a crash must not leave a whole-looking file with holes.
    file.sync_all().and_then(|()| std::fs::rename(&path, &job.target)).map_err(|e| HubError::io(&job.target, &e))
}

impl Job {
    fn broken(&self, error: &reqwest::Error) -> Attempt {
        match error.is_timeout() && !error.is_connect() {
            true => Attempt::Broken(format!("nothing arrived for {:.1} s", self.silence.as_secs_f32())),
            false => Attempt::Broken(cause(error)),
        }
    }
}

impl Partial {
    /// Opens or creates the file and digests what is in it.
    async fn open(path: PathBuf) -> Result<Self, HubError> {
        blocking(move || {
            let open = || {
                let mut file = File::options().create(true).truncate(false).read(true).write(true).open(&path)?;
                let mut digest = Sha256::new();
                let len = read_all(&mut file, |bytes| digest.update(bytes))?;
                Ok((file, len, digest))
            };
            let (file, len, digest) = open().map_err(|e: std::io::Error| HubError::io(&path, &e))?;
            Ok(Self { path, file, len, digest })
        })
        .await
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(|e| HubError::io(&self.path, &e))?;
        self.digest.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> Result<(), HubError> {
        let empty = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        empty.map_err(|e| HubError::io(&self.path, &e))?;
        (self.len, self.digest) = (0, Sha256::new());
        Ok(())
    }
}

/// The innermost reason of a request's failure: the outer layers only repeat the address.
pub(super) fn cause(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string().replace('\n', " ")
}
