//! A schema of any draft -> an equal schema in the dialect that the grammar engine enforces.
//!
//! The dialect: `type enum const allOf anyOf oneOf $ref properties patternProperties
//! additionalProperties required min/maxProperties prefixItems items min/maxItems pattern
//! min/maxLength minimum maximum exclusiveMinimum exclusiveMaximum multipleOf`, with `$ref` only to
//! `#/$defs/dN`. Keywords keep their order: the output's properties follow it.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::refs::{Place, resolve};
use super::{Reduced, keywords};
use crate::text::grammar::compiler::GrammarLimits;
use crate::text::grammar::error::GrammarError;

/// What every keyword is, over all drafts. A keyword in none of the lists is no keyword, and passes.
const REFUSED: [(&str, &str); 6] = [
    ("if", "use anyOf, one alternative a case"),
    ("contains", "use items or prefixItems"),
    ("$dynamicRef", "use $ref"),
    ("$recursiveRef", "use $ref"),
    ("extends", "it is of draft 3; use allOf"),
    ("disallow", "it is of draft 3; say what is allowed"),
];

/// What a pattern, or a pair of patterns that may not overlap, counts as: up to a millisecond of work.
const PATTERN_NODES: usize = 8;

pub(super) struct Reducer<'a> {
    pub(super) root: &'a Value,
    pub(super) limits: &'a GrammarLimits,
    num_nodes: usize,
    /// Fragments that a `$ref` names.
    targets: HashSet<String>,
    /// Those that wait to be reduced.
    waiting: Vec<(String, &'a Value)>,
}

/// One schema object under work.
pub(super) struct Node<'s> {
    /// As the client wrote it.
    pub(super) schema: &'s Map<String, Value>,
    /// Where it stands.
    pub(super) place: Place,
    /// How deep.
    pub(super) depth: usize,
    /// What is written of it so far.
    pub(super) out: Reduced,
    /// What goes into its `allOf` beside the client's own.
    pub(super) also: Vec<Value>,
}

/// The whole schema, with what it refers to under `$defs`.
pub(super) fn reduce(root: &Value, limits: &GrammarLimits) -> Result<Reduced, GrammarError> {
    let mut reducer = Reducer { root, limits, num_nodes: 0, targets: HashSet::new(), waiting: Vec::new() };
    let top = reducer.schema(root, &Place::root(), 0)?;
    let mut definitions = Map::new();
    while let Some((fragment, target)) = reducer.waiting.pop() {
        let reduced = reducer.schema(target, &Place::at(&fragment), 0)?;
        definitions.insert(definition_name(&fragment), reduced);
    }
    let mut top = match top {
        Value::Object(top) => top,
        Value::Bool(true) => Map::new(),
        _ => return Err(GrammarError::Unsatisfiable("the schema is false".to_owned())),
    };
    if !definitions.is_empty() {
        top.insert("$defs".to_owned(), Value::Object(definitions));
    }
    Ok(top)
}

impl Reducer<'_> {
    /// Counts `nodes` more schemas or listed values.
    pub(super) fn count(&mut self, nodes: usize) -> Result<(), GrammarError> {
        self.num_nodes = self.num_nodes.saturating_add(nodes);
        if self.num_nodes > self.limits.max_schema_nodes {
            return Err(GrammarError::Limit {
                what: "the number of subschemas and enum values",
                limit: self.limits.max_schema_nodes as u64,
                remedy: "use a smaller schema",
            });
        }
        Ok(())
    }

    /// A schema at `place`, `depth` levels below the root or a definition.
    pub(super) fn schema(&mut self, schema: &Value, place: &Place, depth: usize) -> Result<Value, GrammarError> {
        self.count(1)?;
        if depth > self.limits.max_depth {
            return Err(GrammarError::Limit {
                what: "the nesting of the schema",
                limit: self.limits.max_depth as u64,
                remedy: "nest less deeply, or use $ref",
            });
        }
        let schema = match schema {
            Value::Bool(_) => return Ok(schema.clone()),
            Value::Object(schema) => schema,
            _ => return Err(GrammarError::malformed(place, "a schema is an object, true or false")),
        };
        let mut node = Node { schema, place: place.clone(), depth, out: Map::new(), also: Vec::new() };
        for (keyword, value) in schema {
            self.keyword(&mut node, keyword, value)?;
        }
        keywords::check_counts(&mut node)?;
        if !node.also.is_empty() {
            let mut all = match node.out.remove("allOf") {
                Some(Value::Array(own)) => own,
                _ => Vec::new(),
            };
            all.append(&mut node.also);
            node.out.insert("allOf".to_owned(), Value::Array(all));
        }
        Ok(Value::Object(node.out))
    }

    fn keyword(&mut self, node: &mut Node<'_>, keyword: &str, value: &Value) -> Result<(), GrammarError> {
        match keyword {
            "type" => keywords::types(node, value),
            "enum" | "const" => keywords::values(self, node, keyword, value),
            "allOf" | "anyOf" | "oneOf" => self.alternatives(node, keyword, value),
            "$ref" => self.reference(node, value),
            "properties" | "patternProperties" => self.members(node, keyword, value),
            "additionalProperties" if keywords::names_are_restricted(self, node) => Ok(()),
            "additionalProperties" => self.below(node, keyword, keyword, value),
            "propertyNames" => keywords::property_names(self, node, value),
            "unevaluatedProperties" | "unevaluatedItems" => self.unevaluated(node, keyword, value),
            "required" => keywords::required(node, value),
            "items" if value.is_array() => self.tuple(node, keyword, value),
            "items" => self.below(node, keyword, keyword, value),
            "prefixItems" => self.tuple(node, keyword, value),
            // Counts only beside a list of items.
            "additionalItems" if node.schema.get("items").is_some_and(Value::is_array) => {
                self.below(node, "items", keyword, value)
            }
            "uniqueItems" => keywords::unique_items(node, value),
            "minItems" | "maxItems" | "minProperties" | "maxProperties" | "minLength" | "maxLength" => {
                keywords::count(node, keyword, value)
            }
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => keywords::bound(node, keyword, value),
            "multipleOf" | "divisibleBy" => keywords::multiple_of(node, keyword, value),
            "not" => keywords::not(node, value),
            "dependencies" | "dependentRequired" | "dependentSchemas" => self.dependencies(node, keyword, value),
            "pattern" | "format" => {
                self.count(PATTERN_NODES)?;
                keywords::text(node, keyword, value)
            }
            _ => match REFUSED.iter().find(|(name, _)| *name == keyword) {
                Some((_, remedy)) if !is_vacuous(node.schema, keyword, value) => {
                    Err(GrammarError::keyword(keyword, &node.place, *remedy))
                }
                _ => Ok(()),
            },
        }
    }

    /// A schema under `source`, written as `target`.
    fn below(&mut self, node: &mut Node<'_>, target: &str, source: &str, value: &Value) -> Result<(), GrammarError> {
        let reduced = self.schema(value, &node.place.child(source), node.depth + 1)?;
        node.out.insert(target.to_owned(), reduced);
        Ok(())
    }

    fn list(&mut self, node: &Node<'_>, keyword: &str, value: &Value) -> Result<Vec<Value>, GrammarError> {
        let place = node.place.child(keyword);
        let Some(list) = value.as_array() else {
            return Err(GrammarError::malformed(&place, "a list of schemas stands here"));
        };
        let each = list.iter().enumerate();
        each.map(|(i, schema)| self.schema(schema, &place.item(i), node.depth + 1)).collect()
    }

    fn alternatives(&mut self, node: &mut Node<'_>, keyword: &str, value: &Value) -> Result<(), GrammarError> {
        let mut list = self.list(node, keyword, value)?;
        if list.is_empty() {
            return Err(GrammarError::malformed(&node.place.child(keyword), "the list is empty"));
        }
        if keyword == "allOf" {
            // A schema beside `allOf` and one in it mean the same; this keeps their order.
            match node.out.get_mut("allOf").and_then(Value::as_array_mut) {
                Some(own) => own.append(&mut list),
                None => {
                    node.out.insert(keyword.to_owned(), Value::Array(list));
                }
            }
            return Ok(());
        }
        node.out.insert(keyword.to_owned(), Value::Array(list));
        if keyword == "oneOf" {
            node.out.insert(super::one_of::PLACE.to_owned(), Value::String(String::from(&node.place)));
        }
        Ok(())
    }

    fn reference(&mut self, node: &mut Node<'_>, value: &Value) -> Result<(), GrammarError> {
        let Some(reference) = value.as_str() else {
            return Err(GrammarError::malformed(&node.place.child("$ref"), "a text stands here"));
        };
        let name = self.definition(reference, &node.place)?;
        node.out.insert("$ref".to_owned(), Value::String(name));
        Ok(())
    }

    /// The dialect's name of what `reference` points at.
    fn definition(&mut self, reference: &str, place: &Place) -> Result<String, GrammarError> {
        let (fragment, target) = resolve(self.root, reference, place)?;
        let name = definition_name(&fragment);
        if self.targets.insert(fragment.clone()) {
            self.waiting.push((fragment, target));
        }
        Ok(format!("#/$defs/{name}"))
    }

    fn members(&mut self, node: &mut Node<'_>, keyword: &str, value: &Value) -> Result<(), GrammarError> {
        let place = node.place.child(keyword);
        let Some(members) = value.as_object() else {
            return Err(GrammarError::malformed(&place, "an object of schemas stands here"));
        };
        let (what, limit) = match keyword {
            "patternProperties" => ("the number of patternProperties of one object", self.limits.max_patterns),
            _ => ("the number of properties of one object", self.limits.max_properties),
        };
        if members.len() > limit {
            return Err(GrammarError::Limit { what, limit: limit as u64, remedy: "split the object up" });
        }
        if keyword == "patternProperties" {
            self.count(members.len().pow(2) * PATTERN_NODES)?;
        }
        let mut reduced = Map::with_capacity(members.len());
        for (name, schema) in members {
            let inner = self.schema(schema, &place.child(name), node.depth + 1)?;
            let name = match keyword {
                "patternProperties" => keywords::translated(name, &node.place, keyword)?,
                _ => name.clone(),
            };
            reduced.insert(name, inner);
        }
        node.out.insert(keyword.to_owned(), Value::Object(reduced));
        Ok(())
    }

    /// What holds when a property is there: either it isn't, or the rest holds.
    fn dependencies(&mut self, node: &mut Node<'_>, keyword: &str, value: &Value) -> Result<(), GrammarError> {
        let place = node.place.child(keyword);
        let Some(map) = value.as_object() else {
            return Err(GrammarError::malformed(&place, "an object stands here"));
        };
        for (name, rest) in map {
            let rest = match rest {
                Value::Array(names) if names.is_empty() => continue,
                Value::Array(names) if names.iter().all(Value::is_string) => json!({"required": names}),
                rest => self.schema(rest, &place.child(name), node.depth + 1)?,
            };
            node.also.push(json!({"anyOf": [{"properties": {name: false}}, rest]}));
        }
        Ok(())
    }

    fn tuple(&mut self, node: &mut Node<'_>, keyword: &str, value: &Value) -> Result<(), GrammarError> {
        let list = self.list(node, keyword, value)?;
        node.out.insert("prefixItems".to_owned(), Value::Array(list));
        Ok(())
    }

    /// Without alternatives or references beside it, what is left unevaluated is what is additional.
    fn unevaluated(&mut self, node: &mut Node<'_>, keyword: &str, value: &Value) -> Result<(), GrammarError> {
        let (direct, rest) = match keyword {
            "unevaluatedProperties" => ("additionalProperties", "additionalProperties"),
            _ if node.schema.get("items").is_some_and(Value::is_array) => ("additionalItems", "items"),
            _ => ("items", "items"),
        };
        let open = value == &Value::Bool(true) || value.as_object().is_some_and(Map::is_empty);
        if open || node.schema.contains_key(direct) {
            return Ok(());
        }
        if ["allOf", "anyOf", "oneOf", "$ref", "not", "if"].iter().any(|other| node.schema.contains_key(*other)) {
            let reason = format!("beside allOf, anyOf, oneOf or $ref; write {direct} into each of them");
            return Err(GrammarError::keyword(keyword, &node.place, reason));
        }
        self.below(node, rest, keyword, value)
    }
}

/// Under `$defs` a definition is called by where it stood, its slashes written otherwise: a pointer in
/// the dialect names one level of `$defs`.
pub(super) fn definition_name(fragment: &str) -> String {
    fragment.replace(SLASH, &SLASH.repeat(2)).replace('/', SLASH)
}

/// Where the definition in a message of the engine stood.
pub(super) fn definition_place(message: &str) -> Option<String> {
    let (_, name) = message.split_once("#/$defs/")?;
    Some(name.split_whitespace().next()?.replace(SLASH, "/"))
}

/// Stands for a slash in names of definitions.
const SLASH: &str = "\u{2044}";

/// True where a refused keyword says nothing: `if` without `then` and `else`.
fn is_vacuous(schema: &Map<String, Value>, keyword: &str, value: &Value) -> bool {
    match keyword {
        "if" => !schema.contains_key("then") && !schema.contains_key("else"),
        "extends" | "disallow" => value.is_null(),
        _ => false,
    }
}
