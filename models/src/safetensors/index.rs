//! `model.safetensors.index.json`: tensor name to shard file.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::error::{ModelError, REDOWNLOAD};
use crate::file::read_json;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Reads the map. Shard names are plain file names: an index can't lead outside its folder.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, String>, ModelError> {
    let value = read_json(path)?;
    let index: Index = serde_json::from_value(value)
        .map_err(|e| ModelError::malformed(path, "weight_map", e.to_string(), REDOWNLOAD))?;
    for shard in index.weight_map.values() {
        let plain = Path::new(shard).file_name().is_some_and(|name| name == shard.as_str());
        if !plain || !shard.ends_with(".safetensors") {
            let problem = format!("{shard:?} isn't the name of a safetensors file");
            return Err(ModelError::malformed(path, "weight_map", problem, REDOWNLOAD));
        }
    }
    if index.weight_map.is_empty() {
        return Err(ModelError::malformed(path, "weight_map", "names no tensor", REDOWNLOAD));
    }
    Ok(index.weight_map)
}
