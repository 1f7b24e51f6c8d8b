//! What a download shows: bars on a terminal, one line a file elsewhere, nothing when hidden.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Where the progress of downloads goes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Progress {
    bars: Option<Arc<MultiProgress>>,
}

impl Progress {
    /// To the standard error stream.
    pub fn stderr() -> Self {
        Self { bars: Some(Arc::new(MultiProgress::with_draw_target(ProgressDrawTarget::stderr()))) }
    }

    /// Nowhere.
    pub fn hidden() -> Self {
        Self { bars: None }
    }

    /// A line that stays.
    pub(super) fn line(&self, text: &str) {
        let Some(bars) = &self.bars else { return };
        // A hidden draw target (no terminal) prints nothing by itself.
        let printed = if bars.is_hidden() { writeln!(std::io::stderr().lock(), "{text}") } else { bars.println(text) };
        // A closed stderr is no reason to stop a download.
        let _ = printed;
    }

    /// A bar for `total` bytes, of which `done` are here already.
    pub(super) fn file(&self, name: &str, total: Option<u64>, done: u64) -> ProgressBar {
        let size = total.map_or(String::new(), |n| format!(" ({})", crate::config::ByteSize(n).approx()));
        let Some(bars) = &self.bars else { return ProgressBar::hidden() };
        if bars.is_hidden() {
            self.line(&format!("downloading {name}{size}"));
            return ProgressBar::hidden();
        }
        let style = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        let bar = bars.add(ProgressBar::new(total.unwrap_or(0)));
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(name.to_owned());
        bar.set_position(done);
        bar.reset_eta();
        bar
    }

    /// A bar for `total` steps, on a terminal only.
    pub(crate) fn count(&self, text: &str, total: usize) -> ProgressBar {
        let Some(bars) = self.bars.as_ref().filter(|bars| !bars.is_hidden()) else { return ProgressBar::hidden() };
        let bar = bars.add(ProgressBar::new(total as u64));
        bar.set_message(text.to_owned());
        bar.set_style(
            ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}")
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar
    }

    /// A sign of life for work of unknown length.
    pub(super) fn spinner(&self, text: &str) -> ProgressBar {
        let Some(bars) = &self.bars else { return ProgressBar::hidden() };
        if bars.is_hidden() {
            self.line(text);
            return ProgressBar::hidden();
        }
        let bar = bars.add(ProgressBar::new_spinner());
        bar.set_message(text.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    }
}
