//! Turns rows of the table into handles of one Prometheus recorder.

use std::time::Duration;

use metrics::{Key, KeyName, Label, Level, Metadata, Recorder, SharedString};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::TelemetryConfig;
use super::table::{self, Kind, Metric};

static METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// A gauge under one or two names.
pub(super) struct Gauge(Vec<metrics::Gauge>);

/// A histogram of seconds under one or two names.
pub(super) struct Histogram(Vec<metrics::Histogram>);

/// A counter under one or two names; one for each value of its label, or a single one.
pub(super) struct Counters(Vec<Vec<metrics::Counter>>);

impl Gauge {
    pub(super) fn set(&self, value: f64) {
        self.0.iter().for_each(|g| g.set(value));
    }

    pub(super) fn add(&self, value: f64) {
        self.0.iter().for_each(|g| g.increment(value));
    }
}

impl Histogram {
    pub(super) fn record(&self, value: Duration) {
        self.0.iter().for_each(|h| h.record(value.as_secs_f64()));
    }
}

impl Counters {
    /// Adds `n` to the counter of the label value number `value` (0 without a label).
    pub(super) fn add(&self, value: usize, n: u64) {
        if let Some(names) = self.0.get(value) {
            names.iter().for_each(|c| c.increment(n));
        }
    }
}

pub(super) struct Registry {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    model_name: String,
    vllm_names: bool,
}

impl Registry {
    pub(super) fn new(config: &TelemetryConfig) -> Self {
        let mut builder = PrometheusBuilder::new();
        for metric in table::ALL {
            let Kind::Histogram(buckets) = metric.kind else { continue };
            for name in [metric.native, metric.vllm].into_iter().flatten() {
                builder = match builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets) {
                    Ok(b) => b,
                    // The only error is an empty list, which the table's test excludes.
                    Err(_) => PrometheusBuilder::new(),
                };
            }
        }
        let recorder = builder.build_recorder();
        let registry = Self {
            handle: recorder.handle(),
            recorder,
            model_name: config.model_name.clone(),
            vllm_names: config.vllm_names,
        };
        table::ALL.iter().for_each(|m| registry.describe(m));
        registry
    }

    pub(super) fn handle(&self) -> &PrometheusHandle {
        &self.handle
    }

    /// The names under which `metric` is exported, each with its fixed labels.
    fn names(&self, metric: &Metric) -> Vec<(&'static str, Vec<Label>)> {
        let model = Label::new("model_name", self.model_name.clone());
        let mut names = Vec::new();
        if let Some(native) = metric.native {
            // Rows with vLLM's counterpart are about the model, the rest about the process.
            let labels = if metric.vllm.is_some() { vec![model.clone()] } else { Vec::new() };
            names.push((native, labels));
        }
        if let Some(vllm) = metric.vllm.filter(|_| self.vllm_names) {
            names.push((vllm, vec![model, Label::new("engine", "0")]));
        }
        names
    }

    fn keys(&self, metric: &Metric, extra: &[(&'static str, String)]) -> Vec<Key> {
        let add = |(name, mut labels): (&'static str, Vec<Label>)| {
            labels.extend(extra.iter().map(|(k, v)| Label::new(*k, v.clone())));
            Key::from_parts(name, labels)
        };
        self.names(metric).into_iter().map(add).collect()
    }

    fn describe(&self, metric: &Metric) {
        for (name, _) in self.names(metric) {
            let (name, help) = (KeyName::from(name), SharedString::from(metric.help));
            match metric.kind {
                Kind::Counter => self.recorder.describe_counter(name, None, help),
                Kind::Gauge => self.recorder.describe_gauge(name, None, help),
                Kind::Histogram(_) => self.recorder.describe_histogram(name, None, help),
            }
        }
    }

    pub(super) fn gauge(&self, metric: &Metric) -> Gauge {
        let keys = self.keys(metric, &[]);
        Gauge(keys.iter().map(|k| self.recorder.register_gauge(k, &METADATA)).collect())
    }

    pub(super) fn histogram(&self, metric: &Metric) -> Histogram {
        let keys = self.keys(metric, &[]);
        Histogram(keys.iter().map(|k| self.recorder.register_histogram(k, &METADATA)).collect())
    }

    pub(super) fn counters(&self, metric: &Metric) -> Counters {
        let register = |extra: &[(&'static str, String)]| -> Vec<metrics::Counter> {
            self.keys(metric, extra).iter().map(|k| self.recorder.register_counter(k, &METADATA)).collect()
        };
        Counters(match metric.label {
            None => vec![register(&[])],
            Some((label, values)) => values.iter().map(|v| register(&[(label, (*v).to_owned())])).collect(),
        })
    }

    /// A gauge that is 1 and says its piece in its labels.
    pub(super) fn info(&self, metric: &Metric, labels: &[(&'static str, String)]) {
        self.set_labelled(metric, labels, 1.0);
    }

    pub(super) fn set_labelled(&self, metric: &Metric, labels: &[(&'static str, String)], value: f64) {
        for key in self.keys(metric, labels) {
            self.recorder.register_gauge(&key, &METADATA).set(value);
        }
    }

    pub(super) fn labelled_counter(&self, metric: &Metric, labels: &[(&'static str, String)]) -> metrics::Counter {
        match self.keys(metric, labels).first() {
            Some(key) => self.recorder.register_counter(key, &METADATA),
            None => metrics::Counter::noop(),
        }
    }
}
