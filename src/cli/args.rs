//! Every verb and its flags. `serve` takes the flat table of `config::RawConfig`; the others take what
//! concerns them.

use std::path::PathBuf;

use clap::error::{ContextKind, ErrorKind};
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::{
    ByteSize, Config, ConfigError, DeviceChoice, KvCacheDtype, KvCacheMemory, Machine, RawConfig, Seconds, known_keys,
    parse_file,
};
use crate::runtime::finds_gpu;

/// A high-performance server for open-weight language models.
#[derive(Parser)]
#[command(name = "sconce", version, about, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// The verb.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Serve a model over HTTP with an OpenAI-compatible API
    Serve(Box<ServeArgs>),
    /// Chat with a model in the terminal, or answer one prompt
    Run(RunArgs),
    /// Say what a model needs and how many sequences fit; loads nothing
    Plan(Box<PlanArgs>),
    /// Download a model, so that it is there without a network; checks and repairs what is here already
    Pull(PullArgs),
    /// Check this machine's GPU against the CPU and measure it; one file of this program is all that it takes
    GpuCheck(GpuCheckArgs),
    /// List the models on this machine and the known aliases
    List,
    /// Ask a running server whether it is well; exit code 0 if so
    Health(HealthArgs),
    /// Print a completion script for a shell
    Completions {
        /// Name of the shell
        shell: clap_complete::Shell,
    },
}

/// Arguments of `serve`.
#[derive(Args)]
pub struct ServeArgs {
    /// The settings that are flags.
    #[command(flatten)]
    pub settings: RawConfig,
    /// TOML file with settings: every flag without its dashes, and rarer ones
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the effective configuration as TOML and exit
    #[arg(long)]
    pub print_config: bool,
}

/// Arguments of `health`.
#[derive(Args)]
pub struct HealthArgs {
    /// Where the server listens
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    pub url: String,
}

/// Arguments of `gpu-check`.
#[derive(Args)]
pub struct GpuCheckArgs {
    /// Number of the GPU
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub device: usize,
    /// Time for everything; what doesn't fit is left out, least worth first
    #[arg(long, value_name = "TIME", default_value = "480s")]
    pub time: Seconds,
    /// Write every result as one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write the table of results, Markdown
    #[arg(long, value_name = "FILE")]
    pub summary: Option<PathBuf>,
    /// Checks only, no measurements
    #[arg(long)]
    pub no_measure: bool,
}

/// Arguments of `plan`.
#[derive(Args)]
pub struct PlanArgs {
    /// A GGUF file, a folder, a hub id or an alias; downloaded if it isn't here
    pub model: Option<String>,
    /// TOML file with settings, as for `serve`
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Longest prompt plus output, in tokens
    #[arg(long, value_name = "TOKENS")]
    pub max_model_len: Option<usize>,
    /// Sequences that run at once
    #[arg(long, value_name = "N")]
    pub max_num_seqs: Option<usize>,
    /// Tokens computed in one step
    #[arg(long, value_name = "TOKENS")]
    pub max_batch_tokens: Option<usize>,
    /// Budget of the KV cache: a size like 2GiB, or auto
    #[arg(long, value_name = "SIZE")]
    pub kv_cache_memory: Option<KvCacheMemory>,
    /// Element type of the KV cache
    #[arg(long, value_enum, value_name = "TYPE")]
    pub kv_cache_dtype: Option<KvCacheDtype>,
    /// What would compute: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceChoice>,
    /// Plan for a GPU with this much free memory, such as 80GiB; it need not be here
    #[arg(long, value_name = "SIZE")]
    pub gpu_memory: Option<ByteSize>,
}

/// Arguments of `run`.
#[derive(Args)]
pub struct RunArgs {
    /// A GGUF file, a folder, a hub id or an alias
    pub model: String,
    /// Answer this and exit; without it, and with a terminal, a chat begins
    pub prompt: Option<String>,
    /// System prompt
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Most tokens of an answer [default: what the context leaves]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: Option<u32>,
    /// 0 always takes the likeliest token [default: the model's, else 0.7]
    #[arg(long, value_name = "T")]
    pub temperature: Option<f32>,
    /// Seed of the first answer; the same seed gives the same text [default: random]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Longest conversation, in tokens
    #[arg(long, value_name = "TOKENS")]
    pub max_model_len: Option<usize>,
    /// Budget of the KV cache: a size like 2GiB, or auto
    #[arg(long, value_name = "SIZE")]
    pub kv_cache_memory: Option<KvCacheMemory>,
    /// Threads that compute
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Jinja file used in place of the model's chat template
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    /// TOML file with settings, as for `serve`
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Arguments of `pull`.
#[derive(Args)]
pub struct PullArgs {
    /// A hub id `org/name[:file or quantisation]` or an alias
    pub model: Option<String>,
}

/// The same error, where a flag is not known: with the way to a setting that is a key of the file alone, and without the
/// advice to give the flag as a value.
pub(super) fn unknown_flag(mut error: clap::Error) -> clap::Error {
    if error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    let flag = error.get(ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
    let key = flag.trim_start_matches('-').split('=').next().unwrap_or_default().to_owned();
    let is_flag = |serve: &clap::Command| serve.get_arguments().any(|arg| arg.get_long() == Some(&key));
    if known_keys().contains(&key) && !Cli::command().find_subcommand("serve").is_some_and(is_flag) {
        let message = format!("--{key} is no flag here; write {key} into a file and pass --config FILE.toml");
        return Cli::command().error(ErrorKind::UnknownArgument, message);
    }
    error.remove(ContextKind::Suggested);
    error
}

/// Settings of a verb's flags over those of its file.
fn resolve(flags: &RawConfig, file: Option<&PathBuf>) -> Result<Config, ConfigError> {
    let file = file.map(|path| parse_file(path)).transpose()?.unwrap_or_default();
    let device = flags.device.or(file.device).unwrap_or(DeviceChoice::Auto);
    Config::resolve(flags, &file, &Machine::default().with_gpu(finds_gpu(device)))
}

impl ServeArgs {
    /// The validated configuration.
    pub(super) fn resolve(&self) -> Result<Config, ConfigError> {
        resolve(&self.settings, self.config.as_ref())
    }
}

impl PlanArgs {
    /// The validated configuration.
    pub(super) fn resolve(&self) -> Result<Config, ConfigError> {
        let flags = RawConfig {
            model: self.model.clone(),
            max_model_len: self.max_model_len,
            max_num_seqs: self.max_num_seqs,
            max_batch_tokens: self.max_batch_tokens,
            kv_cache_memory: self.kv_cache_memory,
            kv_cache_dtype: self.kv_cache_dtype,
            // The memory of a GPU means a GPU.
            device: self.device.or(self.gpu_memory.map(|_| DeviceChoice::Cuda(0))),
            ..RawConfig::default()
        };
        resolve(&flags, self.config.as_ref())
    }
}

impl RunArgs {
    /// The validated configuration: one conversation, no server.
    pub(super) fn resolve(&self) -> Result<Config, ConfigError> {
        let flags = RawConfig {
            model: Some(self.model.clone()),
            max_model_len: self.max_model_len,
            max_num_seqs: Some(1),
            kv_cache_memory: self.kv_cache_memory,
            threads: self.threads,
            chat_template: self.chat_template.clone(),
            log_level: Some(crate::config::LogLevel::Warn),
            ..RawConfig::default()
        };
        resolve(&flags, self.config.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verb(name: &str) -> clap::Command {
        Cli::command().find_subcommand(name).unwrap().clone()
    }

    #[test]
    fn clap_finds_no_fault() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serve_shows_at_most_25_flags_and_each_is_a_toml_key() {
        let serve = verb("serve");
        let flags: Vec<&str> =
            serve.get_arguments().filter(|a| !a.is_hide_set()).filter_map(|a| a.get_long()).collect();
        assert!(flags.len() >= 15 && flags.len() <= 25, "{}: {flags:?}", flags.len());
        let keys = known_keys();
        for flag in flags.iter().filter(|f| !["config", "print-config"].contains(f)) {
            assert!(keys.iter().any(|key| key == flag), "{flag}");
        }
        assert!(keys.len() > flags.len(), "rarer settings live in the file only");
    }

    #[test]
    fn everything_has_help() {
        for verb in Cli::command().get_subcommands() {
            assert!(verb.get_about().is_some(), "{}", verb.get_name());
            for arg in verb.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {}", verb.get_name(), arg.get_id());
            }
        }
        let help = verb("serve").render_help().to_string();
        for word in ["--host", "--kv-cache-memory", "[default: 8000]", "f16", "--insecure-no-auth"] {
            assert!(help.contains(word), "{word} in {help}");
        }
    }

    #[test]
    fn an_unknown_flag_names_the_nearest() {
        let error = Cli::try_parse_from(["sconce", "serve", "--max-num-seq", "3"]).err().unwrap();
        assert!(error.to_string().contains("--max-num-seqs"), "{error}");
        assert_eq!(error.exit_code(), 2);
        let error = Cli::try_parse_from(["sconce", "serve", "--kv-cache-memory", "lots"]).err().unwrap();
        assert!(error.to_string().contains("like 4GiB, or auto"), "{error}");
    }

    #[test]
    fn a_setting_of_the_file_is_no_flag_and_says_so() {
        let told = |line: &str| unknown_flag(Cli::try_parse_from(line.split(' ')).err().unwrap()).to_string();
        let error = told("sconce serve --strict-fields");
        assert!(error.contains("strict-fields") && error.contains("--config FILE.toml"), "{error}");
        for line in ["sconce serve --context-length 5", "sconce serve --timeout 5"] {
            let error = told(line);
            assert!(!error.contains("as a value") && error.contains("unexpected argument"), "{error}");
        }
        assert!(told("sconce serve --max-num-seq 3").contains("--max-num-seqs"));
        assert!(Cli::try_parse_from("sconce run m --max-tokens 0".split(' ')).is_err());
    }

    #[test]
    fn flags_of_every_kind() {
        let line = "sconce serve m.gguf --port 1 --api-key a --api-key b --insecure-no-auth --no-prefix-cache --request-timeout 5m";
        let Command::Serve(args) = Cli::try_parse_from(line.split(' ')).unwrap().command else { panic!("not serve") };
        let raw = args.settings;
        assert_eq!((raw.model.as_deref(), raw.port), (Some("m.gguf"), Some(1)));
        assert_eq!(raw.api_key.unwrap(), ["a", "b"]);
        assert_eq!((raw.insecure_no_auth, raw.no_prefix_cache), (Some(true), Some(true)));
        assert_eq!(raw.request_timeout.unwrap().to_string(), "300s");
    }
}
