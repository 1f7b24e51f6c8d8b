//! A checkpoint, whatever its format: weights by name, and the configuration that describes them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use sconce_kernels::dtype::WeightType;
use serde_json::Value;

use crate::error::ModelError;
use crate::file::{files_with_extension, read_json};
use crate::gguf::{Gguf, SplitName};
use crate::safetensors::Safetensors;
use crate::tensor::TensorInfo;
pub use crate::tensor::TensorView;

/// An open checkpoint. Weights stay in the memory map until they are asked for.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    /// The folder, if the checkpoint was named by its folder.
    dir: Option<PathBuf>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Gguf(Box<Gguf>),
    Safetensors { weights: Safetensors, config: Value },
}

impl Checkpoint {
    /// Opens a GGUF file (any part of a split set), a folder with `config.json` and safetensors, or a folder with
    /// exactly one GGUF model.
    ///
    /// # Errors
    /// Nothing to load at `path`, more than one model, a format that isn't read, or a broken file.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let meta = std::fs::metadata(path).map_err(|e| ModelError::io(path, "open the checkpoint", e))?;
        if meta.is_dir() {
            return Self::open_folder(path);
        }
        match path.extension().and_then(|e| e.to_str()) {
            Some("safetensors") => Err(ModelError::not_a_checkpoint(
                path,
                "a safetensors file alone has no configuration",
                "name the folder that holds it and config.json",
            )),
            Some("bin" | "pt" | "pth" | "ckpt") => Err(pickled(path)),
            // Whatever its name, the magic decides.
            _ => Self::from_gguf(path, None),
        }
    }

    fn from_gguf(path: &Path, dir: Option<PathBuf>) -> Result<Self, ModelError> {
        let gguf = Gguf::open(path)?;
        Ok(Self { path: gguf.path().to_owned(), dir, source: Source::Gguf(Box::new(gguf)) })
    }

    fn open_folder(dir: &Path) -> Result<Self, ModelError> {
        let config_path = dir.join("config.json");
        let has_safetensors =
            !files_with_extension(dir, &["safetensors"])?.is_empty() || dir.join(crate::safetensors::INDEX).is_file();
        if has_safetensors && config_path.is_file() {
            let config = read_json(&config_path)?;
            refuse_quantized(&config_path, &config)?;
            let weights = Safetensors::open(dir)?;
            let source = Source::Safetensors { weights, config };
            return Ok(Self { path: dir.to_owned(), dir: Some(dir.to_owned()), source });
        }
        let models = gguf_models(dir)?;
        match models.as_slice() {
            [only] => return Self::from_gguf(only, Some(dir.to_owned())),
            [] => {}
            several => {
                let names: Vec<_> = several.iter().filter_map(|p| p.file_name()?.to_str()).collect();
                let problem = format!("{} GGUF models: {}", several.len(), names.join(", "));
                return Err(ModelError::not_a_checkpoint(dir, problem, "name one of the files"));
            }
        }
        if has_safetensors {
            return Err(ModelError::not_a_checkpoint(
                dir,
                "safetensors without config.json",
                "download config.json too",
            ));
        }
        if !files_with_extension(dir, &["bin", "pt", "pth", "ckpt"])?.is_empty() {
            return Err(pickled(dir));
        }
        Err(ModelError::not_a_checkpoint(
            dir,
            "no weights in this folder",
            "it must hold config.json and *.safetensors, or one *.gguf",
        ))
    }

    /// The GGUF file, or the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that describes the model: the GGUF file, or `config.json`.
    pub fn description(&self) -> PathBuf {
        match &self.source {
            Source::Gguf(_) => self.path.clone(),
            Source::Safetensors { .. } => self.path.join("config.json"),
        }
    }

    /// The file that holds the weight of this name; the checkpoint itself if none does.
    pub fn file_of(&self, name: &str) -> &Path {
        let file = match &self.source {
            Source::Gguf(gguf) => gguf.file_of(name),
            Source::Safetensors { weights, .. } => weights.file_of(name),
        };
        file.unwrap_or(&self.path)
    }

    /// The folder whose other files (tokenizer, chat template, generation settings) belong to the checkpoint.
    /// `None` for a GGUF named by its file: what lies beside it may belong to another model.
    pub fn dir(&self) -> Option<&Path> {
        self.dir.as_deref()
    }

    /// The GGUF model, if it is one.
    pub fn gguf(&self) -> Option<&Gguf> {
        match &self.source {
            Source::Gguf(gguf) => Some(gguf),
            Source::Safetensors { .. } => None,
        }
    }

    /// `config.json` as it is, if there is one.
    pub fn config(&self) -> Option<&Value> {
        match &self.source {
            Source::Gguf(_) => None,
            Source::Safetensors { config, .. } => Some(config),
        }
    }

    /// All weights, in the order their data lies in the files.
    pub fn tensors(&self) -> &[TensorInfo] {
        match &self.source {
            Source::Gguf(gguf) => gguf.tensors(),
            Source::Safetensors { weights, .. } => weights.tensors(),
        }
    }

    /// Whether there is a weight of this name.
    pub fn has(&self, name: &str) -> bool {
        self.info(name).is_some()
    }

    /// Type, shape and place of a weight.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        match &self.source {
            Source::Gguf(gguf) => gguf.info(name),
            Source::Safetensors { weights, .. } => weights.info(name),
        }
    }

    /// The weight of this name.
    ///
    /// # Errors
    /// It isn't there, or is of a dtype that isn't a weight type.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>, ModelError> {
        match &self.source {
            Source::Gguf(gguf) => {
                let info = gguf.info(name).ok_or_else(|| ModelError::missing_tensor(&self.path, name))?;
                Ok(gguf.view(info))
            }
            Source::Safetensors { weights, .. } => {
                let info = weights.info(name).ok_or_else(|| weights.explain_missing(&self.path, name))?;
                Ok(weights.view(info))
            }
        }
    }

    /// Bytes of all weights in the files.
    pub fn weight_bytes(&self) -> usize {
        self.tensors().iter().map(|t| t.range.len()).sum()
    }

    /// The type that holds the most bytes of the weights.
    pub fn main_type(&self) -> Option<WeightType> {
        let mut bytes: HashMap<WeightType, usize> = HashMap::new();
        for tensor in self.tensors() {
            *bytes.entry(tensor.ty).or_default() += tensor.range.len();
        }
        bytes.into_iter().max_by_key(|&(ty, bytes)| (bytes, ty.name())).map(|(ty, _)| ty)
    }

    /// Hints to the system that all weights will be read soon, in file order.
    pub fn advise_load(&self) {
        match &self.source {
            Source::Gguf(gguf) => gguf.advise_load(),
            Source::Safetensors { weights, .. } => weights.advise_load(),
        }
    }
}

/// First parts of the GGUF models in a folder; projectors of vision towers don't count.
fn gguf_models(dir: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let mut files = files_with_extension(dir, &["gguf"])?;
    files.retain(|path| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("mmproj")));
    // One entry a set, even if its first part is missing: opening it then names that part.
    let mut sets: Vec<PathBuf> =
        files.into_iter().map(|path| SplitName::parse(&path).map_or(path.clone(), |s| s.part(&path, 0))).collect();
    sets.sort();
    sets.dedup();
    Ok(sets)
}

fn pickled(path: &Path) -> ModelError {
    ModelError::not_a_checkpoint(
        path,
        "weights are only there as Python pickles (.bin, .pt), which can run code",
        "convert them to safetensors",
    )
}

/// Weights that a quantisation method rewrote can't be read as plain matrices.
fn refuse_quantized(path: &Path, config: &Value) -> Result<(), ModelError> {
    let holders = [Some(config), config.get("text_config")];
    let Some(settings) = holders.into_iter().flatten().find_map(|c| c.get("quantization_config")) else {
        return Ok(());
    };
    if settings.is_null() {
        return Ok(());
    }
    let method = settings.get("quant_method").and_then(Value::as_str).unwrap_or("unnamed");
    Err(ModelError::unsupported(
        path,
        "quantization_config",
        format!("weights quantised by method {method}"),
        "use the unquantised checkpoint (F32, F16, BF16) or a GGUF file",
    ))
}
