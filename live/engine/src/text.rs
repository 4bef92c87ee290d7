//! Text of an output as it grows: whole characters only, and nothing that may yet become a stop string.

/// What one more token makes deliverable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) text: String,
    /// A stop string is complete; the text before it has been delivered.
    pub(crate) stopped: bool,
}

/// State of one output; a function of its bytes alone.
#[derive(Clone, Debug)]
pub(crate) struct TextState {
    stops: Vec<String>,
    /// Bytes of a character that is not complete.
    partial: Vec<u8>,
    /// Characters that may be the beginning of a stop string.
    held: String,
}

impl TextState {
    /// The beginning of an output. Empty stop strings are ignored.
    pub(crate) fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        Self { stops, partial: Vec::new(), held: String::new() }
    }

    /// Appends the bytes of one token.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Piece {
        self.partial.extend_from_slice(bytes);
        self.decode();
        let hit = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(at) = hit {
            self.held.truncate(at);
            self.partial.clear();
            return Piece { text: std::mem::take(&mut self.held), stopped: true };
        }
        let kept = self.held.split_off(self.held.len() - self.suspect());
        Piece { text: std::mem::replace(&mut self.held, kept), stopped: false }
    }

    /// What is left when no more tokens come.
    pub(crate) fn finish(&mut self) -> String {
        if !self.partial.is_empty() {
            self.partial.clear();
            self.held.push(char::REPLACEMENT_CHARACTER);
        }
        std::mem::take(&mut self.held)
    }

    /// Moves whole characters, and a replacement for each impossible sequence, from `partial` to `held`.
    fn decode(&mut self) {
        let mut used = 0;
        for chunk in self.partial.utf8_chunks() {
            let end = used + chunk.valid().len() + chunk.invalid().len();
            self.held.push_str(chunk.valid());
            used += chunk.valid().len();
            if chunk.invalid().is_empty() || (end == self.partial.len() && may_continue(chunk.invalid())) {
                break;
            }
            self.held.push(char::REPLACEMENT_CHARACTER);
            used = end;
        }
        self.partial.drain(..used);
    }

    /// Bytes at the end of `held` that some stop string begins with.
    fn suspect(&self) -> usize {
        let longest = |stop: &String| {
            (1..stop.len().min(self.held.len() + 1))
                .rev()
                .find(|count| stop.is_char_boundary(*count) && self.held.ends_with(&stop[..*count]))
        };
        self.stops.iter().filter_map(longest).max().unwrap_or(0)
    }
}

/// Whether these bytes, which are no character, can still become one.
fn may_continue(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deliver(stops: &[&str], pieces: &[&[u8]]) -> (Vec<String>, String) {
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut state = TextState::new(&stops);
        let mut out = Vec::new();
        for piece in pieces {
            let piece = state.push(piece);
            out.push(piece.text);
            if piece.stopped {
                out.push("STOP".to_owned());
                break;
            }
        }
        (out, state.finish())
    }

    #[test]
    fn a_character_split_over_tokens_arrives_whole() {
        let euro = "€".as_bytes();
        let (out, rest) = deliver(&[], &[&euro[..1], &euro[1..2], &euro[2..], b"!"]);
        assert_eq!((out.concat(), out[0].as_str(), out[2].as_str(), rest.as_str()), ("€!".to_owned(), "", "€", ""));
    }

    #[test]
    fn impossible_bytes_become_replacements_at_once_and_a_cut_character_at_the_end() {
        let (out, rest) = deliver(&[], &[b"a\xff", b"b\xe2\x82", b"c", b"\xf0\x9f"]);
        assert_eq!((out.concat(), rest), ("a\u{fffd}b\u{fffd}c".to_owned(), "\u{fffd}".to_owned()));
    }

    #[test]
    fn a_stop_string_over_token_boundaries_is_never_delivered() {
        let (out, rest) = deliver(&["\n\nEnd"], &[b"one\n", b"\nE", b"n", b"d two"]);
        assert_eq!((out.join("|"), rest.as_str()), ("one||||STOP".to_owned(), ""));
        let (out, rest) = deliver(&["\n\nEnd"], &[b"one\n", b"\nE", b"x"]);
        assert_eq!((out.join("|"), rest.as_str()), ("one||\n\nEx".to_owned(), ""));
    }

    #[test]
    fn the_earliest_of_several_stop_strings_ends_the_text() {
        let (out, _) = deliver(&["bcd", "b"], &[b"ab", b"cd"]);
        assert_eq!(out, ["a", "STOP"]);
        let (out, rest) = deliver(&["xyz", ""], &[b"ax", b"y"]);
        assert_eq!((out.join("|"), rest.as_str()), ("a|".to_owned(), "xy"));
    }
}
