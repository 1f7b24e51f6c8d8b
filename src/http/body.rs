//! The body of a request, under limits of type, size and time.

use axum::body::{Body, Bytes};
use http::Request;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::config::HttpConfig;
use super::error::ApiError;

/// Reads the whole body of a request that is declared as JSON.
///
/// # Errors
/// 415 for another type, 413 over the size limit, 408 when it comes too slowly, 400 when it is cut.
pub(super) async fn read_json(request: Request<Body>, config: &HttpConfig) -> Result<Bytes, ApiError> {
    let headers = request.headers();
    let declared = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let media = declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if media != "application/json" && !(media.starts_with("application/") && media.ends_with("+json")) {
        return Err(ApiError::media_type());
    }
    let length = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    if length.is_some_and(|n| n > config.max_body_bytes as u64) {
        return Err(ApiError::too_large(config.max_body_bytes));
    }
    let body = Limited::new(request.into_body(), config.max_body_bytes).collect();
    let collected = tokio::time::timeout(config.body_timeout, body).await.map_err(|_| ApiError::slow_body())?;
    match collected {
        Ok(body) => Ok(body.to_bytes()),
        Err(e) if e.is::<LengthLimitError>() => Err(ApiError::too_large(config.max_body_bytes)),
        Err(_) => Err(ApiError::body("The request body could not be read.")),
    }
}
