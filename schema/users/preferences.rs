//! What a person prefers: theme, language, time zone.
//!
//! Invariants: a person changes their own, in whatever organisation they act; a key has none.

use async_graphql::{Context, InputObject, MaybeUndefined};
use oriel_domain::organizations::{Language, TimeZone};
use oriel_domain::users::preferences::ChangePreferences;
use oriel_kernel::{Rejection, operations};
use oriel_read_models::users::preferences::{self, Preferences, Theme};

use crate::access::{Problems, after_write, reader};
use crate::payload::payloads;
use crate::services::Services;

/// What can be done about preferences.
#[derive(Default)]
pub struct PreferencesMutation;

payloads! {
    /// What became of a change of what you prefer.
    PreferencesPayload {
        /// What you prefer now.
        preferences: Preferences,
    }
}

#[operations(mutation)]
impl PreferencesMutation {
    /// Changes what you prefer, on every device and in every organization: who follows `viewer { preferences }` sees it
    /// at once. What is left out stays as it is; with null you say nothing about it any more.
    #[signed_in]
    async fn preferences_update(
        &self,
        cx: &Context<'_>,
        input: PreferencesUpdateInput,
    ) -> crate::access::Result<PreferencesPayload> {
        let context = granted.command(cx, &input)?;
        let user = granted.in_person()?.user;
        let mut problems = Problems::default();
        let language = problems.take("language", parsed(&input.language, Language::parse));
        let time_zone = problems.take("timeZone", parsed(&input.time_zone, TimeZone::parse));
        let (Some(language), Some(time_zone)) = (language, time_zone) else { return Err(problems.failure()) };
        let theme = match input.theme {
            MaybeUndefined::Undefined => None,
            MaybeUndefined::Null => Some(None),
            MaybeUndefined::Value(theme) => Some(Some(theme.into())),
        };
        let change = ChangePreferences { by: user, theme, language, time_zone };
        let done = Services::of(cx)?.engine.execute(&context, user, change).await?;
        after_write::<preferences::Model>(cx, done.subject).await?;
        let preferences = Some(preferences::of_viewer(&reader(cx)?).await?);
        Ok(PreferencesPayload { preferences, user_errors: Vec::new(), position: Some(done.position) })
    }
}

/// Nothing: it stays. `Some(None)`: it is said no more.
fn parsed<T>(
    given: &MaybeUndefined<String>,
    parse: fn(&str) -> Result<T, Rejection>,
) -> Result<Option<Option<T>>, Rejection> {
    match given {
        MaybeUndefined::Undefined => Ok(None),
        MaybeUndefined::Null => Ok(Some(None)),
        MaybeUndefined::Value(text) => parse(text).map(|value| Some(Some(value))),
    }
}

/// A change of what you prefer.
#[derive(InputObject)]
struct PreferencesUpdateInput {
    /// How it looks; null: as the client has it.
    theme: MaybeUndefined<Theme>,
    /// The language in which you read, as a BCP 47 tag, such as `de` or `pt-BR`; null: your organization's.
    language: MaybeUndefined<String>,
    /// The time zone in which you live, by its name in the tz database, such as `Europe/Vienna`; null: your
    /// organization's.
    time_zone: MaybeUndefined<String>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use async_graphql::Request;
    use futures::StreamExt;
    use serde_json::json;

    use crate::testing::{Bed, PASSWORD, Person, SIGNED_IN, operation};

    const FIELDS: &str = "theme language timeZone effectiveLanguage effectiveTimeZone";

    #[tokio::test]
    async fn what_is_not_said_is_the_organizations() {
        let bed = Bed::new().await;
        let ada = bed.register("Engines", "ada@example.org").await;
        let bob = bed.join(&ada, "bob@example.org", &["member"]).await;
        let asked = format!("{{ viewer {{ preferences {{ {FIELDS} }} }} }}");
        let seen =
            async |token: &str| bed.ask(Some(token), &asked, json!({})).await["data"]["viewer"]["preferences"].clone();
        let fields = format!("preferences {{ {FIELDS} }} userErrors {{ code path message }}");
        let update = async |input| bed.mutate(Some(&bob.access), "preferencesUpdate", input, &fields).await;
        assert!(seen(&bob.access).await.as_object().unwrap().values().all(|value| value.is_null()));

        let settings = json!({ "language": "de", "timeZone": "Europe/Vienna" });
        bed.mutate(Some(&ada.access), "organizationUpdate", settings, "userErrors { code }").await;
        let of_organization = json!({ "theme": null, "language": null, "timeZone": null, "effectiveLanguage": "de",
                                      "effectiveTimeZone": "Europe/Vienna" });
        assert_eq!(seen(&bob.access).await, of_organization);

        let done = update(json!({ "theme": "DARK", "language": "pt-BR" })).await;
        let preferred = json!({ "theme": "DARK", "language": "pt-BR", "timeZone": null, "effectiveLanguage": "pt-BR",
                                "effectiveTimeZone": "Europe/Vienna" });
        assert_eq!((&done["preferences"], &done["userErrors"]), (&preferred, &json!([])));
        assert_eq!(seen(&bob.access).await, preferred);
        assert_eq!(seen(&ada.access).await, of_organization, "nobody else's");

        let wrong = update(json!({ "language": "deutsch!", "timeZone": "a b" })).await;
        assert_eq!(Bed::problems(&wrong), ["INVALID input.language", "INVALID input.timeZone"]);
        assert_eq!(update(json!({ "timeZone": "UTC" })).await["preferences"]["effectiveTimeZone"], "UTC");
        let back = update(json!({ "theme": null, "language": null, "timeZone": null })).await;
        assert_eq!(back["preferences"], of_organization);
    }

    #[tokio::test]
    async fn another_session_that_follows_sees_it_at_once_and_a_key_has_none() {
        let bed = Bed::new().await;
        let ada = bed.register("Engines", "ada@example.org").await;
        let input = json!({ "email": "ada@example.org", "password": PASSWORD });
        let elsewhere = Person::of(&bed.mutate(None, "login", input, SIGNED_IN).await);
        let live = operation(Request::new("subscription { live { viewer { preferences { theme } } } }")).unwrap();
        let mut answers = bed.endpoint.execute_stream(live, bed.caller(Some(&elsewhere.access)).unwrap());
        let mut told = async || {
            let answer = tokio::time::timeout(Duration::from_secs(60), answers.next()).await.unwrap().unwrap();
            serde_json::to_value(answer).unwrap()["data"]["live"]["viewer"]["preferences"]["theme"].clone()
        };
        assert_eq!(told().await, json!(null));
        bed.mutate(Some(&ada.access), "preferencesUpdate", json!({ "theme": "LIGHT" }), "userErrors { code }").await;
        assert_eq!(told().await, "LIGHT");
        let (_, secret) = bed.key(&ada, &["projects:view"]).await;
        let theirs = bed.ask(Some(&secret), "{ viewer { preferences { theme } } }", json!({})).await;
        assert_eq!(theirs["data"]["viewer"]["preferences"], json!(null), "{theirs}");
        let update = "mutation { preferencesUpdate(input: { theme: DARK }) { userErrors { code } } }";
        let refused = bed.ask(Some(&secret), update, json!({})).await;
        assert!(refused.to_string().contains("FORBIDDEN"), "{refused}");
    }
}
