//! Rust text with comments, literals and tests blanked out, so that a search finds code only.

/// The code in `text`: comments, strings and characters become spaces, lines stay where they are.
pub(crate) fn code(text: &str) -> String {
    let mut masked = Masked { rest: text, out: String::with_capacity(text.len()) };
    while !masked.rest.is_empty() {
        masked.step();
    }
    masked.out
}

/// The code in `text` without what is compiled for tests only: items and blocks under `#[cfg(test)]`.
pub(crate) fn shipped(text: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut code = code(text);
    while let Some(start) = code.find(MARK) {
        let end = item_end(&code, start + MARK.len());
        let blank: String = code[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        code.replace_range(start..end, &blank);
    }
    code
}

// The end of the item that starts at `from`: past its `;`, or past the brace that closes its first one.
fn item_end(code: &str, from: usize) -> usize {
    let mut depth = 0usize;
    for (at, c) in code[from..].char_indices() {
        match c {
            ';' if depth == 0 => return from + at + 1,
            '{' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return from + at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

struct Masked<'a> {
    rest: &'a str,
    out: String,
}

impl Masked<'_> {
    fn step(&mut self) {
        if self.rest.starts_with("//") {
            self.blank(self.rest.find('\n').unwrap_or(self.rest.len()));
        } else if self.rest.starts_with("/*") {
            self.blank(block_comment(self.rest));
        } else if let Some(hashes) = raw_string(self.rest).filter(|_| self.at_word_start()) {
            let close = format!("\"{}", "#".repeat(hashes));
            let open = self.rest.find('"').map_or(self.rest.len(), |at| at + 1);
            self.blank(self.rest[open..].find(&close).map_or(self.rest.len(), |at| open + at + close.len()));
        } else if self.rest.starts_with('"') {
            self.blank(quoted(self.rest, '"'));
        } else if self.rest.starts_with('\'') && is_character(self.rest) {
            self.blank(quoted(self.rest, '\''));
        } else {
            let c = self.rest.chars().next().expect("step is called while text remains");
            self.out.push(c);
            self.rest = &self.rest[c.len_utf8()..];
        }
    }

    // The r of `raw"` inside a word, as in `bar"`, opens nothing.
    fn at_word_start(&self) -> bool {
        !self.out.ends_with(|c: char| c.is_alphanumeric() || c == '_')
    }

    fn blank(&mut self, length: usize) {
        let (gone, rest) = self.rest.split_at(length);
        self.out.extend(gone.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        self.rest = rest;
    }
}

// How many `#` a raw string at the front has, `br` and `cr` strings included.
fn raw_string(text: &str) -> Option<usize> {
    let text = text.strip_prefix(['b', 'c']).unwrap_or(text).strip_prefix('r')?;
    let rest = text.trim_start_matches('#');
    rest.starts_with('"').then_some(text.len() - rest.len())
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

// A quote opens a character literal if it closes after one character or starts an escape; else it is a lifetime.
fn is_character(text: &str) -> bool {
    let mut chars = text.chars().skip(1);
    match chars.next() {
        Some('\\') => true,
        Some(_) => chars.next() == Some('\''),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_strings_and_characters_become_spaces_and_lines_stay() {
        let text = "a /* x\n/* y */ */ b // c\n\"d\\\"e\" r#\"f\"g\"# 'h' '\\'' &'i j";
        assert_eq!(code(text), "a     \n           b     \n                         &'i j");
    }

    #[test]
    fn a_word_that_ends_in_r_opens_no_raw_string() {
        assert_eq!(code("for\"x\" b"), "for    b");
    }

    #[test]
    fn shipped_code_leaves_out_test_items_of_every_form() {
        let text = "use a;\n#[cfg(test)]\nuse b;\nfn c() {}\n#[cfg(test)]\nmod tests { fn d() { 1 } }\nfn e() {}\n";
        let shipped = shipped(text);
        assert_eq!(shipped.split_whitespace().collect::<Vec<_>>(), ["use", "a;", "fn", "c()", "{}", "fn", "e()", "{}"]);
        assert_eq!(shipped.lines().count(), text.lines().count());
    }
}
