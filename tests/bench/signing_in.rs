//! Many people who sign in at once, with passwords at the recommended cost: how many a second, and what those notice who
//! ask for something else meanwhile.

use std::time::Duration;

use futures::future::join;
use serde_json::json;

use crate::load::{arrivals, clients, request};
use crate::oriel::{PASSWORD, Running};
use crate::report::{Goal, Report};
use crate::scale::Scale;

const ACCOUNTS: usize = 32;
/// Questions a second of those who are signed in already.
const RATE: f64 = 200.0;

pub async fn measure(report: &mut Report, scale: Scale) {
    let time = Duration::from_secs(scale.of(1, 10, 30));
    let server = Running::start();
    let token = server.register().await;
    server.projects(&token, 20).await;
    for n in 0..ACCOUNTS {
        server.join(&token, &format!("person-{n}"), "viewer").await;
    }
    let servers = [&server];
    let ask = |round: &'static str| {
        let token = token.clone();
        // Under another name each time, so that it is read each time.
        move |n: u64| {
            let query = format!("{{ {round}{n}: projects(first: 20) {{ nodes {{ id key name status }} }} }}");
            request("/graphql", &token, &json!({ "query": query }).to_string())
        }
    };
    let login = |client: usize, _| {
        let query = "mutation($input: LoginInput!) { login(input: $input) { accessToken userErrors { message } } }";
        let input = json!({ "email": format!("person-{client}@example.org"), "password": PASSWORD });
        request("/graphql", "", &json!({ "query": query, "variables": { "input": input } }).to_string())
    };
    arrivals(&servers, RATE, Duration::from_secs(2), ask("w")).await;
    let alone = arrivals(&servers, RATE, time, ask("a")).await;
    let queries = arrivals(&servers, RATE, time, ask("b"));
    let (logins, beside) = join(clients(&servers, ACCOUNTS, time, login), queries).await;
    let part = "signing in: Argon2id, 19 MiB, 2 passes; SQLite";
    let note = format!("{ACCOUNTS} people at once, and {RATE:.0} queries a second: {}", logins.told());
    report.alone(part, "sign-ins", "/s", logins.per_second(), Goal::None, note);
    let errors = logins.errors().max(beside.errors());
    report.alone(part, "errors", "%", errors, Goal::AtMost(0.1), "of sign-ins or of queries beside them, the worse");
    for (what, at, goal) in [("p50", 0.5, Goal::TimesFloor(2.0)), ("p99", 0.99, Goal::TimesFloor(4.0))] {
        let what = format!("uncached list beside them: {what}");
        let note = format!("{RATE:.0}/s; floor: nobody signs in: {}", alone.told());
        report.against(part, what, "ms", beside.within(at), alone.within(at), goal, note);
    }
}
