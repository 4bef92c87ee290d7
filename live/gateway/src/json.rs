//! JSON read strictly: nothing twice, nothing unknown, every fault named by its parameter.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::refusal::{Kind, Refusal};

/// Reads a body that must be one JSON object without repeated names.
///
/// # Errors
/// Says where the text stops being JSON; never quotes it.
pub(crate) fn object(body: &[u8]) -> Result<Fields, Refusal> {
    let bad = |message: String| Refusal::new(Kind::Invalid { param: None }, message);
    match serde_json::from_slice::<Strict>(body) {
        Ok(Strict(Value::Object(map))) => Ok(Fields { map, path: String::new() }),
        Ok(Strict(other)) => Err(bad(format!("the body must be a JSON object, not {}", kind_of(&other)))),
        Err(cause) if cause.is_data() => Err(bad("the body names a JSON member twice".to_owned())),
        Err(cause) => Err(bad(format!("the body is not valid JSON: line {}, column {}", cause.line(), cause.column()))),
    }
}

/// What a value is, in words.
pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The members of an object that were not read yet.
#[derive(Debug)]
pub(crate) struct Fields {
    map: Map<String, Value>,
    path: String,
}

impl Fields {
    /// The members of a value that must be an object; `path` is what errors call it.
    pub(crate) fn of(value: Value, path: String) -> Result<Self, Refusal> {
        match value {
            Value::Object(map) => Ok(Self { map, path }),
            other => Err(wrong(&path, "an object", &other)),
        }
    }

    /// What errors call a member.
    pub(crate) fn name(&self, member: &str) -> String {
        if self.path.is_empty() { member.to_owned() } else { format!("{}.{member}", self.path) }
    }

    /// Whether a member is there; null counts as absent.
    pub(crate) fn has(&self, member: &str) -> bool {
        self.map.get(member).is_some_and(|value| !value.is_null())
    }

    /// Takes a member; null counts as absent.
    pub(crate) fn take(&mut self, member: &str) -> Option<Value> {
        self.map.remove(member).filter(|value| !value.is_null())
    }

    /// Takes a member that must be there.
    pub(crate) fn required(&mut self, member: &str) -> Result<Value, Refusal> {
        let name = self.name(member);
        self.take(member).ok_or_else(|| Refusal::invalid(&*name, format!("`{name}` is missing")))
    }

    /// Takes a string.
    pub(crate) fn string(&mut self, member: &str) -> Result<Option<String>, Refusal> {
        match self.take(member) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(&self.name(member), "a string", &other)),
        }
    }

    /// Takes a boolean.
    pub(crate) fn boolean(&mut self, member: &str) -> Result<Option<bool>, Refusal> {
        match self.take(member) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(wrong(&self.name(member), "a boolean", &other)),
        }
    }

    /// Takes an integer from `min` to `max`.
    pub(crate) fn integer(&mut self, member: &str, min: u64, max: u64) -> Result<Option<u64>, Refusal> {
        let Some(value) = self.take(member) else { return Ok(None) };
        let name = self.name(member);
        if !value.is_i64() && !value.is_u64() {
            return Err(wrong(&name, "an integer", &value));
        }
        match value.as_u64().filter(|number| (min..=max).contains(number)) {
            Some(number) => Ok(Some(number)),
            None if max == u64::MAX => {
                Err(Refusal::invalid(&*name, format!("`{name}` must be at least {min}, not {value}")))
            }
            None => Err(Refusal::invalid(&*name, format!("`{name}` must be from {min} to {max}, not {value}"))),
        }
    }

    /// Takes an integer of 64 bits, signed or not.
    pub(crate) fn seed(&mut self, member: &str) -> Result<Option<u64>, Refusal> {
        match self.take(member) {
            None => Ok(None),
            Some(value) => match (value.as_u64(), value.as_i64()) {
                (Some(seed), _) => Ok(Some(seed)),
                (None, Some(seed)) => Ok(Some(seed.cast_unsigned())),
                (None, None) => Err(wrong(&self.name(member), "an integer of 64 bits", &value)),
            },
        }
    }

    /// Takes a number from 0 to `max`.
    pub(crate) fn number(&mut self, member: &str, max: f32) -> Result<Option<f32>, Refusal> {
        let Some(value) = self.take(member) else { return Ok(None) };
        let name = self.name(member);
        let number = value.as_f64().filter(|_| value.is_number()).ok_or_else(|| wrong(&name, "a number", &value))?;
        if !(0.0..=f64::from(max)).contains(&number) {
            return Err(Refusal::invalid(&*name, format!("`{name}` must be from 0 to {max}, not {value}")));
        }
        // Adding zero makes the negative zero positive.
        Ok(Some(number as f32 + 0.0))
    }

    /// The members that nobody took.
    pub(crate) fn rest(self) -> (String, Map<String, Value>) {
        (self.path, self.map)
    }

    /// Refuses members that nobody took.
    pub(crate) fn finish(self) -> Result<(), Refusal> {
        match self.map.keys().next() {
            None => Ok(()),
            Some(member) => Err(unknown(&self.name(member))),
        }
    }
}

/// A value of the wrong type.
pub(crate) fn wrong(name: &str, expected: &str, found: &Value) -> Refusal {
    Refusal::invalid(name, format!("`{name}` must be {expected}, not {}", kind_of(found)))
}

/// A parameter that nobody knows.
pub(crate) fn unknown(name: &str) -> Refusal {
    let shown = shown(name);
    Refusal::invalid(shown, format!("`{shown}` is not a parameter of this request"))
}

/// As much of a name as an error repeats.
pub(crate) fn shown(name: &str) -> &str {
    name.char_indices().nth(NAME_CHARS_MAX).map_or(name, |(end, _)| &name[..end])
}

/// Characters of an unknown name that an error repeats.
const NAME_CHARS_MAX: usize = 80;

/// A JSON value whose objects name nothing twice.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = access.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((name, Strict(value))) = access.next_entry::<String, Strict>()? {
            if map.insert(name, value).is_some() {
                return Err(A::Error::custom("a member twice"));
            }
        }
        Ok(Value::Object(map))
    }
}
