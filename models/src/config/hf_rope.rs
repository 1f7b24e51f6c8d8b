//! Rope keys of `config.json`, of the hub's old style (`rope_theta`, `rope_scaling` with `type` or `rope_type`) and
//! new style (`rope_parameters`), resolved as transformers' `modeling_rope_utils` does.

use serde_json::{Map, Value};

use super::hf::{HfConfig, as_f32, as_usize};
use crate::error::ModelError;
use crate::spec::{RopeScaling, RopeSpec};

/// The one rope of a model without layer types. `head_dim` is the width of a query head.
pub(super) fn rope(config: &HfConfig<'_>, head_dim: usize) -> Result<RopeSpec, ModelError> {
    let empty = Map::new();
    // The old key wins unless it is empty.
    let (key, fields) = match config.object("rope_scaling")? {
        Some(fields) if !fields.is_empty() => ("rope_scaling", fields),
        _ => ("rope_parameters", config.object("rope_parameters")?.unwrap_or(&empty)),
    };
    if fields.contains_key("full_attention") || fields.contains_key("sliding_attention") {
        let remedy = "supported: rope_type and its parameters, at the top";
        return Err(config.unsupported(key, "this architecture takes one rope, not one a layer type", remedy));
    }
    let theta = config.opt_f32("rope_theta")?.unwrap_or(10_000.0);
    Fields { config, key, fields }.rope(theta, head_dim)
}

/// Ropes of full and of sliding layers (Gemma 3): a dictionary a layer type, or the old flat keys, of which
/// `rope_theta` and `rope_scaling` are for full layers and `rope_local_base_freq` for sliding ones.
pub(super) fn ropes_by_layer_type(config: &HfConfig<'_>, head_dim: usize) -> Result<[RopeSpec; 2], ModelError> {
    const KEY: &str = "rope_parameters";
    let empty = Map::new();
    let by_type = config.object(KEY)?.unwrap_or(&empty);
    let part = |name: &str| by_type.get(name).and_then(Value::as_object);
    if !by_type.is_empty() && part("full_attention").is_none() && part("sliding_attention").is_none() {
        return Err(config.bad(KEY, "holds neither full_attention nor sliding_attention"));
    }
    let mut full = part("full_attention").unwrap_or(&empty).clone();
    if let Some(scaling) = config.object("rope_scaling")? {
        full.extend(scaling.clone());
    }
    let theta = config.opt_f32("rope_theta")?.unwrap_or(1_000_000.0);
    let full = Fields { config, key: "rope_parameters.full_attention", fields: &full }.rope(theta, head_dim)?;
    let theta = config.opt_f32("rope_local_base_freq")?.unwrap_or(10_000.0);
    let fields = part("sliding_attention").unwrap_or(&empty);
    let sliding = Fields { config, key: "rope_parameters.sliding_attention", fields }.rope(theta, head_dim)?;
    Ok([full, sliding])
}

struct Fields<'a> {
    config: &'a HfConfig<'a>,
    key: &'a str,
    fields: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn rope(&self, default_theta: f32, head_dim: usize) -> Result<RopeSpec, ModelError> {
        let partial = match self.number("partial_rotary_factor")? {
            Some(partial) => partial,
            None => self.config.opt_f32("partial_rotary_factor")?.unwrap_or(1.0),
        };
        if !(partial > 0.0 && partial <= 1.0) {
            return Err(self.config.bad("partial_rotary_factor", format!("{partial} isn't in (0, 1]")));
        }
        let rot_dim = (head_dim as f64 * f64::from(partial)) as usize;
        let theta = self.number("rope_theta")?.unwrap_or(default_theta);
        Ok(RopeSpec { theta, rot_dim, interleaved: false, scaling: self.scaling()? })
    }

    fn scaling(&self) -> Result<RopeScaling, ModelError> {
        if self.fields.get("mrope_section").is_some_and(|section| !section.is_null()) {
            let remedy = "supported: text models, whose positions have one axis";
            return Err(self.config.unsupported(&self.path("mrope_section"), "positions of three axes", remedy));
        }
        let kind = ["rope_type", "type"].iter().find_map(|key| self.fields.get(*key)).filter(|kind| !kind.is_null());
        match kind.map_or(Some("default"), Value::as_str) {
            Some("default") => Ok(RopeScaling::None),
            Some("linear") => Ok(RopeScaling::Linear { factor: self.required("factor")? }),
            Some("llama3") => Ok(RopeScaling::Llama3 {
                factor: self.required("factor")?,
                low_freq_factor: self.required("low_freq_factor")?,
                high_freq_factor: self.required("high_freq_factor")?,
                original_max_position: self.original_max_position()?,
            }),
            Some("yarn") => self.yarn(),
            Some("longrope" | "su") => self.longrope(),
            other => {
                let problem = format!("rope scaling {}", other.unwrap_or("of no name"));
                let remedy = "supported: default, linear, llama3, yarn, longrope";
                Err(self.config.unsupported(&self.path("rope_type"), problem, remedy))
            }
        }
    }

    /// arXiv:2309.00071, with transformers' reading of `mscale`.
    fn yarn(&self) -> Result<RopeScaling, ModelError> {
        let original_max_position = self.original_max_position()?;
        let factor = self.factor_or_ratio(original_max_position)?;
        let mscale =
            |scale: f32| if factor <= 1.0 { 1.0 } else { 0.1 * f64::from(scale) * f64::from(factor).ln() + 1.0 };
        let both = self.number("mscale")?.zip(self.number("mscale_all_dim")?);
        let attention_factor = match (self.number("attention_factor")?, both) {
            (Some(stated), _) => stated,
            (None, Some((over, under))) if over != 0.0 && under != 0.0 => (mscale(over) / mscale(under)) as f32,
            _ => mscale(1.0) as f32,
        };
        let beta = |key: &str, default: f32| Ok(self.number(key)?.filter(|&v| v != 0.0).unwrap_or(default));
        Ok(RopeScaling::Yarn {
            factor,
            beta_fast: beta("beta_fast", 32.0)?,
            beta_slow: beta("beta_slow", 1.0)?,
            attention_factor,
            original_max_position,
            truncate: self.fields.get("truncate").and_then(Value::as_bool).unwrap_or(true),
        })
    }

    /// arXiv:2402.13753.
    fn longrope(&self) -> Result<RopeScaling, ModelError> {
        let original_max_position = self.original_max_position()?;
        let factor = f64::from(self.factor_or_ratio(original_max_position)?);
        let attention_factor = match self.number("attention_factor")? {
            Some(stated) => stated,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + factor.ln() / (original_max_position as f64).ln()).sqrt() as f32,
        };
        Ok(RopeScaling::LongRope {
            short_factor: self.numbers("short_factor")?,
            long_factor: self.numbers("long_factor")?,
            attention_factor,
            original_max_position,
        })
    }

    /// A top-level key wins over one among the rope fields, as for Phi-3.
    fn original_max_position(&self) -> Result<usize, ModelError> {
        const KEY: &str = "original_max_position_embeddings";
        if let Some(stated) = self.config.opt_usize(KEY)? {
            return Ok(stated);
        }
        match self.fields.get(KEY).filter(|value| !value.is_null()) {
            Some(value) => as_usize(value)
                .ok_or_else(|| self.config.bad(&self.path(KEY), format!("{value} isn't a positive whole number"))),
            None => self.config.usize("max_position_embeddings"),
        }
    }

    fn factor_or_ratio(&self, original_max_position: usize) -> Result<f32, ModelError> {
        match self.number("factor")? {
            Some(factor) => Ok(factor),
            None => Ok(self.config.usize("max_position_embeddings")? as f32 / original_max_position as f32),
        }
    }

    fn number(&self, key: &str) -> Result<Option<f32>, ModelError> {
        match self.fields.get(key).filter(|value| !value.is_null()) {
            None => Ok(None),
            Some(value) => match as_f32(value) {
                Some(number) => Ok(Some(number)),
                None => Err(self.config.bad(&self.path(key), format!("{value} isn't a finite number"))),
            },
        }
    }

    fn required(&self, key: &str) -> Result<f32, ModelError> {
        self.number(key)?.ok_or_else(|| self.config.bad(&self.path(key), "is missing"))
    }

    fn numbers(&self, key: &str) -> Result<Vec<f32>, ModelError> {
        let list = self.fields.get(key).and_then(Value::as_array);
        let numbers = list.and_then(|list| list.iter().map(as_f32).collect());
        numbers.ok_or_else(|| self.config.bad(&self.path(key), "isn't a list of finite numbers"))
    }

    fn path(&self, key: &str) -> String {
        format!("{}.{key}", self.key)
    }
}
