//! Many people who sign in at once, with passwords at the recommended cost: how many a second, and what those notice who
//! ask for something else meanwhile.

use std::time::Duration;

use futures::future::join;
use serde_json::json;

use crate::load::{arrivals, clients, request};
use crate::oriel::{PASSWORD, Running};
use crate::report::{Goal, Report};

const ACCOUNTS: usize = 32;
const TIME: Duration = Duration::from_secs(8);
/// Questions a second of those who are signed in already.
const RATE: f64 = 200.0;

pub async fn measure(report: &mut Report) {
    let server = Running::start();
    let token = server.register().await;
    server.projects(&token, 20).await;
    for n in 0..ACCOUNTS {
        server.join(&token, &format!("person-{n}"), "viewer").await;
    }
    let address = [server.address.as_str()];
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
    arrivals(&address, RATE, Duration::from_secs(2), ask("w")).await;
    let alone = arrivals(&address, RATE, TIME, ask("a")).await;
    let queries = arrivals(&address, RATE, TIME, ask("b"));
    let (logins, beside) = join(clients(&address, ACCOUNTS, TIME, login), queries).await;
    assert_eq!((logins.errors(), beside.errors()), (0.0, 0.0), "everybody is answered");
    let part = "signing in: Argon2id, 19 MiB, 2 passes; SQLite";
    let note = format!("{ACCOUNTS} people at once: p50 {:.0}, p99 {:.0} ms", logins.within(0.5), logins.within(0.99));
    report.alone(part, "sign-ins", "/s", logins.per_second(), Goal::None, note);
    for (what, at, goal) in [("p50", 0.5, Goal::TimesFloor(2.0)), ("p99", 0.99, Goal::TimesFloor(4.0))] {
        let what = format!("uncached list beside them: {what}");
        let (beside, alone) = (beside.within(at), alone.within(at));
        report.against(part, what, "ms", beside, alone, goal, format!("{RATE:.0}/s; floor: nobody signs in"));
    }
}
