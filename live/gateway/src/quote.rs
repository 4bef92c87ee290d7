//! Quotes: what a request would cost, at a price that holds for a while.

use ol_protocol::TenantId;
use serde::Serialize;

use crate::answer::PriceObject;
use crate::backend::{Quote, QuoteRequest, Size};
use crate::json::{self, Fields};
use crate::refusal::Refusal;
use crate::request::{self, Api, Policy, Request};

/// Reads what a quote is asked for: a request's own body, or a model and numbers of tokens.
pub(crate) fn parse(tenant: TenantId, body: &[u8]) -> Result<QuoteRequest, Refusal> {
    let mut fields = json::object(body)?;
    let resources = [("messages", Api::Chat), ("prompt", Api::Text), ("input", Api::Embeddings)];
    if let Some((_, api)) = resources.into_iter().find(|(member, _)| fields.has(member)) {
        let Request { model, payload, generate, policy, .. } = Request::parse(api, body)?;
        let max_tokens = generate.and_then(|generate| generate.max_tokens);
        return asked(tenant, model, (Size::Payload(payload), max_tokens), policy);
    }
    let model = request::model(&mut fields)?;
    let size = by_numbers(&mut fields)?;
    let policy = request::policy(&mut fields)?;
    fields.finish()?;
    asked(tenant, model, size, policy)
}

fn by_numbers(fields: &mut Fields) -> Result<(Size, Option<u32>), Refusal> {
    let prompt = fields.integer("prompt_tokens", 1, u64::from(u32::MAX))?.ok_or_else(|| {
        let message = "a quote needs `messages`, `prompt` or `input` as its request has it, or `prompt_tokens`";
        Refusal::invalid("prompt_tokens", message)
    })?;
    Ok((Size::PromptTokens(prompt as u32), request::max_tokens(fields, "max_tokens")?))
}

fn asked(
    tenant: TenantId,
    model: String,
    (size, max_tokens): (Size, Option<u32>),
    policy: Policy,
) -> Result<QuoteRequest, Refusal> {
    if policy.quote.is_some() {
        return Err(Refusal::invalid("openledger.quote", "a quote can't be asked for under another one"));
    }
    let region = policy.place()?.bound();
    let Policy { quantisation, max_price, min_trust, .. } = policy;
    Ok(QuoteRequest { tenant, model, quantisation, size, max_tokens, max_price, min_trust_ppm: min_trust, region })
}

/// A quote as clients read it.
#[derive(Serialize)]
pub(crate) struct QuoteObject<'a> {
    object: &'static str,
    id: &'a str,
    model: &'a str,
    variant: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<&'a str>,
    quantisation: &'a str,
    assurance: &'static str,
    price: PriceObject,
    #[serde(skip_serializing_if = "Option::is_none")]
    price_with_audit: Option<PriceObject>,
    prompt_tokens_max: u32,
    output_tokens_max: u32,
    worst_case_micro_credits: u64,
    expected_prompt_tokens: u32,
    expected_output_tokens: u32,
    expected_micro_credits: u64,
    expires_at: u64,
}

impl<'a> QuoteObject<'a> {
    pub(crate) fn of(quote: &'a Quote) -> Self {
        Self {
            object: "quote",
            id: &quote.id,
            model: &quote.model,
            variant: &quote.variant,
            region: quote.region.as_deref(),
            quantisation: &quote.quantisation,
            assurance: quote.assurance,
            price: PriceObject::of(quote.price),
            price_with_audit: quote.price_with_audit.map(PriceObject::of),
            prompt_tokens_max: quote.prompt_tokens_max,
            output_tokens_max: quote.output_tokens_max,
            worst_case_micro_credits: quote.worst_case.0,
            expected_prompt_tokens: quote.expected_prompt_tokens,
            expected_output_tokens: quote.expected_output_tokens,
            expected_micro_credits: quote.expected.0,
            expires_at: quote.expires_at,
        }
    }
}
