//! The documented schema of the reports, and as much of JSON Schema as it needs.

use serde_json::Value;

const SCHEMA: &str = include_str!("../../../docs/stress.schema.json");

/// Panics, and says where, if the report is not as documented.
pub(crate) fn check(report: &Value) {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    if let Err(why) = fits(&schema, &schema, report, "report") {
        panic!("{why}\n{report:#}");
    }
}

fn fits(root: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let known = [
        "$schema",
        "$id",
        "$ref",
        "$defs",
        "title",
        "description",
        "type",
        "const",
        "enum",
        "oneOf",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "minimum",
    ];
    for (word, rule) in schema.as_object().expect("a schema is an object") {
        let holds = match word.as_str() {
            "$ref" => {
                let name = rule.as_str().unwrap().trim_start_matches('#');
                fits(root, root.pointer(name).expect("the reference leads somewhere"), value, at)?;
                true
            }
            "oneOf" => {
                let results: Vec<_> =
                    rule.as_array().unwrap().iter().map(|one| fits(root, one, value, at)).collect();
                if results.iter().filter(|result| result.is_ok()).count() != 1 {
                    return Err(format!("{at}: not exactly one fits: {results:#?}"));
                }
                true
            }
            "type" => match rule {
                Value::Array(types) => types.iter().any(|one| is(one.as_str().unwrap(), value)),
                one => is(one.as_str().unwrap(), value),
            },
            "const" => value == rule,
            "enum" => rule.as_array().unwrap().contains(value),
            "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().unwrap()),
            "required" => rule.as_array().unwrap().iter().all(|name| {
                value.as_object().is_none_or(|object| object.contains_key(name.as_str().unwrap()))
            }),
            "properties" => {
                for (name, schema) in rule.as_object().unwrap() {
                    if let Some(value) = value.get(name) {
                        fits(root, schema, value, &format!("{at}.{name}"))?;
                    }
                }
                true
            }
            "additionalProperties" => {
                for (name, value) in value.as_object().into_iter().flatten() {
                    if schema["properties"].get(name).is_none() {
                        match rule {
                            Value::Bool(false) => return Err(format!("{at}.{name} is not documented")),
                            rule => fits(root, rule, value, &format!("{at}.{name}"))?,
                        }
                    }
                }
                true
            }
            "items" => {
                for (place, value) in value.as_array().into_iter().flatten().enumerate() {
                    fits(root, rule, value, &format!("{at}[{place}]"))?;
                }
                true
            }
            word => {
                assert!(known.contains(&word), "{word} is not known to this test");
                true
            }
        };
        if !holds {
            return Err(format!("{at}: {value} does not fit {word} {rule}"));
        }
    }
    Ok(())
}

fn is(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is no type"),
    }
}

#[test]
fn the_checker_finds_fault() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let compared = serde_json::json!({
        "format": "ipc-reactor-stress", "version": 1, "mode": "compare", "metrics": [], "failed": [], "invalid": [],
        "differences": [], "valid": true, "ok": true,
    });
    check(&compared);
    for (name, value) in
        [("version", 2.into()), ("mode", "other".into()), ("ok", Value::Null), ("more", 1.into())]
    {
        let mut broken = compared.clone();
        broken[name] = value;
        assert!(fits(&schema, &schema, &broken, "report").is_err(), "{name}");
    }
    let mut missing = compared;
    missing.as_object_mut().unwrap().remove("failed");
    assert!(fits(&schema, &schema, &missing, "report").is_err());
}
