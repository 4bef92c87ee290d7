//! A model's chat template: from messages to the text that the model continues.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error as TemplateError, ErrorKind, Value, context};

use crate::load;
use crate::task::{Error, Message};

/// Steps that a template may take: a few for each message and character class, far from an endless loop.
const FUEL: u64 = 10_000_000;
/// The name of the only template.
const NAME: &str = "chat";

/// A compiled template with the texts of the tokens it may name.
#[derive(Debug)]
pub(crate) struct Template {
    environment: Environment<'static>,
    begin: String,
    end: String,
}

impl Template {
    /// Compiles a template as the models' authors test theirs: blocks swallow the line end after them and the
    /// white space before them.
    pub(crate) fn new(source: &str, begin: &str, end: &str) -> Result<Self, load::Error> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(load::Error::Template)?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(|_, value, method, arguments| call_method(value, method, arguments));
        environment.add_function("raise_exception", |text: String| -> Result<String, TemplateError> {
            Err(TemplateError::new(ErrorKind::InvalidOperation, text))
        });
        environment.add_template_owned(NAME, source.to_owned()).map_err(load::Error::Template)?;
        Ok(Self { environment, begin: begin.to_owned(), end: end.to_owned() })
    }

    /// The text of a conversation, up to where the assistant's next words begin.
    pub(crate) fn render(&self, messages: &[Message]) -> Result<String, Error> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| context! { role => message.role.name(), content => message.content.as_str() })
            .collect();
        let variables = context! {
            messages, add_generation_prompt => true, bos_token => self.begin.as_str(),
            eos_token => self.end.as_str(),
        };
        let refused = |error: TemplateError| Error::Template {
            detail: error.detail().map_or_else(|| error.kind().to_string(), str::to_owned),
        };
        self.environment.get_template(NAME).and_then(|template| template.render(variables)).map_err(refused)
    }
}

/// Methods of Python's strings that templates in use call.
fn call_method(value: &Value, method: &str, arguments: &[Value]) -> Result<Value, TemplateError> {
    let unknown = || TemplateError::from(ErrorKind::UnknownMethod);
    let text = value.as_str().ok_or_else(unknown)?;
    let argument = || arguments.first().and_then(Value::as_str).ok_or_else(unknown);
    Ok(match (method, arguments.len()) {
        ("strip", 0) => text.trim().into(),
        ("lstrip", 0) => text.trim_start().into(),
        ("rstrip", 0) => text.trim_end().into(),
        ("upper", 0) => text.to_uppercase().into(),
        ("lower", 0) => text.to_lowercase().into(),
        ("startswith", 1) => text.starts_with(argument()?).into(),
        ("endswith", 1) => text.ends_with(argument()?).into(),
        ("split", 1) => text.split(argument()?).map(Value::from).collect(),
        ("replace", 2) => {
            let to = arguments[1].as_str().ok_or_else(unknown)?;
            text.replace(argument()?, to).into()
        }
        _ => return Err(unknown()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Role;

    fn user(content: &str) -> Message {
        Message { role: Role::User, content: content.to_owned() }
    }

    #[test]
    fn a_default_system_prompt_and_the_assistants_turn_are_inserted() {
        let source = "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}{{ 'S:x\n' }}{% endif %}\
                      {{ m['role'] + ':' + m['content'].strip() + eos_token }}{% endfor %}\
                      {% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}";
        let template = Template::new(source, "<s>", "</s>").unwrap();
        assert_eq!(template.render(&[user(" hi ")]).unwrap(), "S:x\nuser:hi</s>assistant:");
    }

    #[test]
    fn a_template_refuses_in_its_own_words_and_never_loops_for_ever() {
        let template = Template::new("{{ raise_exception('roles must alternate') }}", "", "").unwrap();
        let refused = template.render(&[user("hi")]);
        assert_eq!(refused, Err(Error::Template { detail: "roles must alternate".to_owned() }));
        let nested = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
        assert!(Template::new(nested, "", "").unwrap().render(&[user("hi")]).is_err());
        assert!(Template::new("{% for %}", "", "").is_err());
    }
}
