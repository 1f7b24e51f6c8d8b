//! The exposition as a scraper sees it.

use super::*;

fn telemetry() -> Arc<Telemetry> {
    Telemetry::new(&TelemetryConfig { model_name: "org/m".into(), vllm_names: true })
}

fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find(|l| l.starts_with(series) && l[series.len()..].starts_with(' '));
    line.unwrap_or_else(|| panic!("no series {series} in\n{text}")).rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn tier_one_names_exist_at_zero_before_the_first_request() {
    let t = telemetry();
    t.cache_config(32, 100);
    let text = t.render();
    let labels = r#"{model_name="org/m",engine="0"}"#;
    for name in [
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "vllm:prefix_cache_queries_total",
        "vllm:prefix_cache_hits_total",
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
        "vllm:num_preemptions_total",
        "vllm:time_to_first_token_seconds_count",
        "vllm:inter_token_latency_seconds_count",
        "vllm:request_time_per_output_token_seconds_count",
        "vllm:e2e_request_latency_seconds_count",
        "vllm:request_queue_time_seconds_count",
        "vllm:request_prefill_time_seconds_count",
        "vllm:request_decode_time_seconds_count",
        "vllm:request_inference_time_seconds_count",
    ] {
        assert_eq!(value(&text, &format!("{name}{labels}")), 0.0, "{name}");
    }
    for reason in ["stop", "length", "abort", "error", "repetition"] {
        let series =
            format!(r#"vllm:request_success_total{{model_name="org/m",engine="0",finished_reason="{reason}"}}"#);
        assert_eq!(value(&text, &series), 0.0);
    }
    let info = r#"vllm:cache_config_info{model_name="org/m",engine="0",block_size="32",num_gpu_blocks="100"}"#;
    assert_eq!(value(&text, info), 1.0);
    assert!(text.contains("# TYPE vllm:time_to_first_token_seconds histogram"), "{text}");
    assert!(text.contains("# TYPE vllm:prompt_tokens_total counter"));
}

#[test]
fn buckets_are_those_of_the_table() {
    let t = telemetry();
    t.first_token(Duration::from_millis(30));
    let text = t.render();
    let bucket = |le: &str| {
        value(&text, &format!(r#"vllm:time_to_first_token_seconds_bucket{{model_name="org/m",engine="0",le="{le}"}}"#))
    };
    assert_eq!(bucket("0.02"), 0.0);
    assert_eq!(bucket("0.04"), 1.0);
    assert_eq!(bucket("2560"), 1.0);
    assert_eq!(bucket("+Inf"), 1.0);
}

#[test]
fn every_row_has_a_name_and_histograms_have_rising_buckets() {
    let mut names = std::collections::HashSet::new();
    for m in table::ALL {
        assert!(m.native.is_some() || m.vllm.is_some());
        for name in [m.native, m.vllm].into_iter().flatten() {
            assert!(names.insert(name), "{name} twice");
            assert_eq!(m.kind == table::Kind::Counter, name.ends_with("_total"), "{name}");
        }
        if let table::Kind::Histogram(b) = m.kind {
            assert!(!b.is_empty() && b.windows(2).all(|w| w[0] < w[1]));
        }
    }
}

#[test]
fn outcomes_add_up_and_an_abort_counts_as_a_disconnect() {
    let t = telemetry();
    let times = RequestTimes { output_tokens: 3, decode: Duration::from_secs(1), ..Default::default() };
    for outcome in [Outcome::Stop, Outcome::Length, Outcome::Abort, Outcome::Rejected, Outcome::Timeout] {
        t.request_received();
        t.request_ended(outcome, (outcome == Outcome::Stop).then_some(&times));
    }
    let text = t.render();
    let sum: f64 = Outcome::NAMES
        .iter()
        .map(|o| value(&text, &format!(r#"sconce_request_outcomes_total{{outcome="{o}"}}"#)))
        .sum();
    assert_eq!(sum, value(&text, "sconce_requests_received_total"));
    assert_eq!(value(&text, "sconce_client_disconnects_total"), 1.0);
    let tpot = r#"vllm:request_time_per_output_token_seconds_sum{model_name="org/m",engine="0"}"#;
    assert_eq!(value(&text, tpot), 0.5);
}

#[test]
fn a_loaded_model_says_what_computes() {
    let t = telemetry();
    assert!(!t.render().contains("sconce_build_info{"));
    t.loaded(&LoadedModel { backend: "cpu", quant: "Q4_K", device: "CPU", weight_bytes: 5, kv_bytes: 7 });
    let text = t.render();
    let build = text.lines().find(|l| l.starts_with("sconce_build_info{")).unwrap();
    for label in ["version=\"", "commit=\"", "backend=\"cpu\"", "quant=\"Q4_K\""] {
        assert!(build.contains(label), "{build}");
    }
    assert_eq!(value(&text, r#"sconce_device_memory_bytes{what="kv_cache"}"#), 7.0);
}

#[test]
fn without_compatibility_no_foreign_name_is_exported() {
    let t = Telemetry::new(&TelemetryConfig { model_name: "m".into(), vllm_names: false });
    t.http_request("/health", 200);
    let text = t.render();
    assert!(!text.contains("vllm:"));
    assert_eq!(value(&text, r#"sconce_http_requests_total{route="/health",code="200"}"#), 1.0);
}
