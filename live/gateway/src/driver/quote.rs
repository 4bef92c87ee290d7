//! Quotes: what a request would cost, and prices that hold for a while. The terms travel in the id.

use super::Handle;
use super::explain::explain;
use super::handle::{
    TEMPLATE_TOKENS, TEMPLATE_TOKENS_PER_MESSAGE, Wanted, lock, output_tokens_max, prompt_tokens_max, work,
};
use crate::backend::{self, Payload, QuoteRequest, Size, Submission};
use crate::refusal::{Kind, Refusal};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ol_drive::clock;
use ol_protocol::receipt::Receipt;
use ol_protocol::variant::Variant;
use ol_protocol::{MicroCredits, Price, TokenCount};
use ol_roles::gateway::event;
use ol_roles::quote::{Error, Quote};
use ol_sched::Gate;
use serde_json::{Value, json};

/// What every quote's id starts with.
const PREFIX: &str = "olq-";

/// Bytes of a prompt's text for each token, in the mean of English text.
const BYTES_PER_TOKEN: usize = 4;

fn refused(error: Error) -> Refusal {
    let code = match error {
        Error::Unknown => "quote_unknown",
        Error::Expired { .. } => "quote_expired",
    };
    Refusal::new(Kind::Quote { code }, error.to_string())
}

/// The quote is for another variant than the request.
pub(super) fn mismatch() -> Refusal {
    let message = "the quote is for another model variant than this request, or for one that no node serves any more: ask for another";
    Refusal::new(Kind::Quote { code: "quote_mismatch" }, message)
}

fn elsewhere(quote: &Quote) -> Refusal {
    let message = match quote.region {
        Some(region) => format!(
            "the quote is for requests with \"region\": \"{region}\" in `openledger`: name that, or ask for another"
        ),
        None => "the quote is for requests without a `region` in `openledger`: ask for another".to_owned(),
    };
    Refusal::new(Kind::Quote { code: "quote_mismatch" }, message)
}

/// What a receipt says of the quote.
pub(super) fn facts(id: &str, quote: &Quote) -> Value {
    let mut facts = json!({
        "id": id,
        "prompt_micro_credits_per_million": quote.price.prompt_per_million.0,
        "output_micro_credits_per_million": quote.price.output_per_million.0,
        "expires_at": quote.expires.0 / 1_000_000,
    });
    if let Some(region) = quote.region {
        facts["region"] = region.to_string().into();
    }
    facts
}

fn bytes_of(id: &str) -> Vec<u8> {
    id.strip_prefix(PREFIX).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()).unwrap_or_default()
}

/// Whether the receipts are charged as the quote that their document names says; `None` if it is none. That it is this gateway's own can't be seen from
/// outside.
pub(super) fn is_kept(said: &Value, receipts: &[Receipt]) -> Option<bool> {
    let id = said["id"].as_str()?;
    let quote = Quote::terms(&bytes_of(id)).filter(|quote| facts(id, quote) == *said)?;
    let at_least = |of: Price, least: Price| {
        of.prompt_per_million >= least.prompt_per_million && of.output_per_million >= least.output_per_million
    };
    Some(receipts.iter().all(|Receipt { commitment, charge }| {
        let is_price = charge.price == quote.price || (charge.with_audit && at_least(charge.price, quote.price));
        let is_same = (charge.tenant, commitment.variant, charge.region) == (quote.tenant, quote.variant, quote.region);
        is_same && is_price
    }))
}

impl Handle {
    /// The quote that a request names, if it holds.
    pub(super) fn quoted(&self, submission: &Submission) -> Result<Option<Quote>, Refusal> {
        let Some(id) = &submission.quote else { return Ok(None) };
        let quote = Quote::open(&bytes_of(id), &self.shared.master, clock::now(), submission.tenant);
        let quote = quote.map_err(refused)?;
        match quote.region == submission.place.bound() {
            true => Ok(Some(quote)),
            false => Err(elsewhere(&quote)),
        }
    }

    /// A quote for a request.
    pub(super) async fn offer(&self, asked: QuoteRequest) -> Result<backend::Quote, Refusal> {
        let QuoteRequest { tenant, model, quantisation, size, max_tokens, max_price, min_trust_ppm, region } = asked;
        let of_work = match &size {
            Size::Payload(payload) => Some(work(payload)),
            Size::PromptTokens(_) => None,
        };
        let quantisation = quantisation.as_ref();
        let wanted = Wanted { model: &model, work: of_work, quantisation, region, quoted: None };
        let (id, variant) = self.variant_soon(&wanted).await?;
        let price = self.shared.prices.of(&variant, region);
        let pay_bp = lock(&self.shared.parameters).audit.pay_bp;
        let price_with_audit = min_trust_ppm.and_then(|_| price.with_audit(pay_bp));
        let (prompt_max, output_max) = bounds(&size, max_tokens, &variant)?;
        let charge = |prompt, output| charge(price_with_audit.unwrap_or(price), prompt, output);
        let worst = charge(prompt_max, output_max)?;
        if let Some(max) = max_price.filter(|max| worst > *max) {
            let gate = Gate::PriceTooHigh { worst, max };
            return Err(explain(&event::Refusal::Impossible(vec![gate]), &[], &[gate], None));
        }
        let usual = self.look(move |machine| machine.usual_length(id)).await?;
        let (prompt, output) = (expected_prompt(&size).min(prompt_max), usual.0.min(output_max));
        let quote = Quote::new(clock::now(), tenant, id, region, price);
        Ok(backend::Quote {
            id: format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(quote.seal(&self.shared.master))),
            model,
            variant: id.to_string(),
            region: region.map(|region| region.to_string()),
            quantisation: variant.quantisation,
            assurance: variant.assurance.name(),
            price,
            price_with_audit,
            prompt_tokens_max: prompt_max,
            output_tokens_max: output_max,
            worst_case: worst,
            expected_prompt_tokens: prompt,
            expected_output_tokens: output,
            expected: charge(prompt, output)?,
            expires_at: quote.expires.0 / 1_000_000,
        })
    }
}

// The most tokens that the request may have, in and out.
fn bounds(size: &Size, max_tokens: Option<u32>, variant: &Variant) -> Result<(u32, u32), Refusal> {
    let (context, output) = (variant.context_tokens, output_tokens_max(max_tokens, variant)?);
    match size {
        Size::Payload(payload) => Ok((prompt_tokens_max(payload, context), output)),
        Size::PromptTokens(prompt) if output > 0 && prompt.saturating_add(output) > context => {
            let message =
                format!("{prompt} prompt and {output} output tokens don't fit the model's context of {context} tokens");
            Err(Refusal::new(Kind::TooLong, message))
        }
        Size::PromptTokens(prompt) => Ok((*prompt, output)),
    }
}

// Numbers are taken as they are given. Templates add half of what they may, in the mean of those served here.
fn expected_prompt(size: &Size) -> u32 {
    let tokens = |bytes: usize| bytes.div_ceil(BYTES_PER_TOKEN);
    let expected = match size {
        Size::PromptTokens(prompt) => return *prompt,
        Size::Payload(Payload::Chat(messages)) => {
            let template = TEMPLATE_TOKENS + messages.len() * TEMPLATE_TOKENS_PER_MESSAGE;
            tokens(messages.iter().map(|message| message.content.len()).sum()) + template / 2
        }
        Size::Payload(Payload::Text(prompt)) => tokens(prompt.len()),
        Size::Payload(Payload::Embed(texts)) => texts.iter().map(|text| tokens(text.len())).sum(),
    };
    u32::try_from(expected).unwrap_or(u32::MAX)
}

fn charge(price: Price, prompt: u32, output: u32) -> Result<MicroCredits, Refusal> {
    let too_much = || Refusal::new(Kind::Invalid { param: None }, "this would cost more than any account can hold");
    price.charge(TokenCount(prompt), TokenCount(output)).ok_or_else(too_much)
}
