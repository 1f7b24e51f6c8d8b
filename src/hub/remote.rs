//! The hub's API through the hf-hub crate, and a snapshot of one model in the hub's cache layout.
//!
//! hf-hub 1.0 lists and describes files; it can't resume a download nor check its digest, so the bytes
//! come through `download`.

use std::path::Path;

use futures_util::StreamExt;
use hf_hub::{HFClient, HFError};
use reqwest::redirect::{Action, Attempt, Policy};
use reqwest::{StatusCode, header};

use super::checksum::Checksum;
use super::download::{self, Job};
use super::select::{self, Selection};
use super::{HubError, HubSettings, Progress, cache};

pub(super) struct Remote<'a> {
    settings: &'a HubSettings,
    progress: &'a Progress,
    http: reqwest::Client,
    /// As `http`, but stays on the hub: a redirect elsewhere is returned, not followed.
    direct: reqwest::Client,
    api: HFClient,
}

/// One file of a repository, as the hub describes it.
struct FileInfo {
    etag: String,
    size: Option<u64>,
}

impl<'a> Remote<'a> {
    pub(super) fn new(settings: &'a HubSettings, progress: &'a Progress) -> Result<Self, HubError> {
        let unusable = |reason: String| HubError::Unreachable { endpoint: settings.endpoint.clone(), reason };
        let client = |redirects: Policy| {
            reqwest::Client::builder()
                .user_agent(concat!("sconce/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(settings.answer_timeout)
                // Of one read, not of the whole: a slow download is fine, a silent one isn't.
                .read_timeout(settings.silence_timeout)
                .redirect(redirects)
                .build()
                .map_err(|e| unusable(download::cause(&e)))
        };
        let same_host = |attempt: Attempt<'_>| -> Action {
            let stays = attempt.previous().first().is_some_and(|from| from.host_str() == attempt.url().host_str());
            if stays && attempt.previous().len() < 5 { attempt.follow() } else { attempt.stop() }
        };
        let http = client(Policy::limited(10))?;
        let direct = client(Policy::custom(same_host))?;
        let api = HFClient::builder().endpoint(&settings.endpoint).client(http.clone()).retry_max_attempts(1);
        let api = match &settings.token {
            Some(token) => api.token(token),
            None => api,
        };
        let api = api.cache_enabled(false).build().map_err(|e| unusable(download::cause(&e)))?;
        Ok(Self { settings, progress, http, direct, api })
    }

    /// Downloads what is missing of the model and returns what to open.
    pub(super) async fn snapshot(&self, repo: &str, selector: Option<&str>) -> Result<std::path::PathBuf, HubError> {
        let commit = self.commit(repo).await?;
        let selection = select::select(repo, &self.list(repo, &commit).await?, selector)?;
        let dir = cache::repo_dir(&self.settings.hub_cache, repo);
        for file in &selection.files {
            self.file(repo, &commit, file, &dir).await?;
        }
        self.set_ref(&dir, &commit)?;
        Ok(self.path(&dir, &commit, &selection))
    }

    fn path(&self, dir: &Path, commit: &str, selection: &Selection) -> std::path::PathBuf {
        cache::opened_path(&dir.join("snapshots").join(commit), selection)
    }

    /// The commit that `main` is at; everything after asks for this one, so that a push between two
    /// requests can't mix versions. This is also where an unreachable hub is found out.
    async fn commit(&self, repo: &str) -> Result<String, HubError> {
        let (owner, name) = hf_hub::split_id(repo);
        let model = self.api.model(owner, name);
        let info = self.answer(repo, async { model.info().send().await }).await?;
        let commit = info.sha.unwrap_or_default();
        if commit.is_empty() || commit.len() > 64 || !commit.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(self.bad(repo, format!("`sha` is {commit:?}, not a commit")));
        }
        Ok(commit)
    }

    async fn list(&self, repo: &str, commit: &str) -> Result<Vec<String>, HubError> {
        const MOST_FILES: usize = 10_000;
        let (owner, name) = hf_hub::split_id(repo);
        let model = self.api.model(owner, name);
        let tree = model.list_tree().revision(commit).recursive(true).limit(MOST_FILES).send();
        let tree = tree.map_err(|e| self.explain(repo, e))?;
        let mut tree = std::pin::pin!(tree);
        let mut files = Vec::new();
        while let Some(entry) = self.answer(repo, async { tree.next().await.transpose() }).await? {
            if let hf_hub::repository::RepoTreeEntry::File { path, .. } = entry {
                files.push(path);
            }
        }
        Ok(files)
    }

    async fn file(&self, repo: &str, commit: &str, file: &str, dir: &Path) -> Result<(), HubError> {
        let link = dir.join("snapshots").join(commit).join(file);
        if link.is_file() {
            return Ok(());
        }
        let info = self.describe(repo, commit, file).await?;
        let blob = dir.join("blobs").join(&info.etag);
        let repo_folder = dir.file_name().unwrap_or_default();
        let job = Job {
            url: self.url(repo, commit, file)?,
            token: self.settings.token.clone(),
            lock: self.settings.hub_cache.join(".locks").join(repo_folder).join(format!("{}.lock", info.etag)),
            target: blob.clone(),
            name: format!("{repo}/{file}"),
            size: info.size,
            checksum: Checksum::of_etag(&info.etag),
            retry_delay: self.settings.retry_delay,
            silence: self.settings.silence_timeout,
        };
        download::fetch(&self.http, &job, self.progress).await?;
        place_link(&blob, &link, file)
    }

    /// Asks for the headers of a file. Not through hf-hub: its HEAD follows the redirect to the storage
    /// of large files, whose answer no longer carries the digest.
    async fn describe(&self, repo: &str, commit: &str, file: &str) -> Result<FileInfo, HubError> {
        let mut request = self.direct.head(self.url(repo, commit, file)?).header(header::ACCEPT_ENCODING, "identity");
        if let Some(token) = &self.settings.token {
            request = request.bearer_auth(token);
        }
        let answer = async { request.send().await.map_err(HFError::from) };
        let response = self.answer(repo, answer).await?;
        match response.status() {
            status if status.is_success() || status.is_redirection() => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(HubError::AccessDenied { repo: repo.to_owned() });
            }
            status => return Err(self.bad(repo, format!("{file}: {status}"))),
        }
        let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let etag = text("x-linked-etag").or_else(|| text("etag")).unwrap_or_default();
        let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
        // It becomes a file name.
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if etag.is_empty() || etag.len() > 128 || !etag.bytes().all(plain) {
            return Err(self.bad(repo, format!("the ETag of {file} is {etag:?}")));
        }
        // Of a redirect, Content-Length is the redirect's own.
        let own_length = text("content-length").filter(|_| response.status().is_success());
        let size = text("x-linked-size").or(own_length).and_then(|size| size.parse().ok());
        Ok(FileInfo { etag, size })
    }

    fn url(&self, repo: &str, commit: &str, file: &str) -> Result<reqwest::Url, HubError> {
        let base = format!("{}/{repo}/resolve/{commit}", self.settings.endpoint);
        let mut url = reqwest::Url::parse(&base).map_err(|e| self.bad(repo, e.to_string()))?;
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(file.split('/'));
        }
        Ok(url)
    }

    /// Points `main` at the commit, so that the next start finds the snapshot without a network.
    fn set_ref(&self, dir: &Path, commit: &str) -> Result<(), HubError> {
        let path = dir.join("refs").join("main");
        let temporary = path.with_file_name(format!("main.{}", std::process::id()));
        std::fs::create_dir_all(dir.join("refs"))
            .and_then(|()| std::fs::write(&temporary, commit))
            .and_then(|()| std::fs::rename(&temporary, &path))
            .map_err(|e| HubError::io(&path, &e))
    }

    /// Waits for an answer, but not longer than a hub that is there would take.
    async fn answer<T>(&self, repo: &str, request: impl Future<Output = Result<T, HFError>>) -> Result<T, HubError> {
        match tokio::time::timeout(self.settings.answer_timeout, request).await {
            Ok(answer) => answer.map_err(|e| self.explain(repo, e)),
            Err(_) => Err(HubError::Unreachable {
                endpoint: self.settings.endpoint.clone(),
                reason: format!("no answer within {:.1} s", self.settings.answer_timeout.as_secs_f32()),
            }),
        }
    }

    fn explain(&self, repo: &str, error: HFError) -> HubError {
        let repo = repo.to_owned();
        match error {
            HFError::RepoNotFound { .. } | HFError::RevisionNotFound { .. } => {
                HubError::RepoNotFound { repo, endpoint: self.settings.endpoint.clone() }
            }
            HFError::AuthRequired { .. } | HFError::Forbidden { .. } => HubError::AccessDenied { repo },
            HFError::Http { context } if matches!(context.status.as_u16(), 401 | 403) => {
                HubError::AccessDenied { repo }
            }
            HFError::Request { source, .. } if !source.is_decode() => {
                HubError::Unreachable { endpoint: self.settings.endpoint.clone(), reason: download::cause(&source) }
            }
            other => self.bad(&repo, download::cause(&other)),
        }
    }

    fn bad(&self, repo: &str, reason: String) -> HubError {
        HubError::BadAnswer { repo: repo.to_owned(), reason }
    }
}

/// Puts the blob into the snapshot under its name: a relative link, so that the cache can be moved.
fn place_link(blob: &Path, link: &Path, file: &str) -> Result<(), HubError> {
    let error = |e: std::io::Error| HubError::io(link, &e);
    if let Some(parent) = link.parent() {
        std::fs::create_dir_all(parent).map_err(error)?;
    }
    let name = blob.file_name().unwrap_or_default();
    // snapshots/<commit>/ and one more for each folder in the file's own name.
    let up = "../".repeat(2 + file.matches('/').count());
    match std::os::unix::fs::symlink(Path::new(&up).join("blobs").join(name), link) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && link.is_file() => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            // A link whose blob was deleted.
            std::fs::remove_file(link).and_then(|()| std::fs::hard_link(blob, link)).map_err(error)
        }
        result => result.map_err(error),
    }
}
