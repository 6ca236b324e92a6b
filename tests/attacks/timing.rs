//! What the time of an answer tells: whether somebody has an account, and whether an id is another's or nobody's.
//!
//! Of times nobody judges here, only of their order. The questions that are compared are asked in turn, so that
//! whatever else the machine does meets all of them alike, and what counts is how often one of the first kind took longer
//! than one of the second (Mann and Whitney's U, as a part of all pairs): a half, when they cannot be told apart. A
//! difference that is there is there in every round, so one that shows none clears a suspect, however noisy the others
//! were; and that the eye is sharp enough is shown by two that can be told apart, in one of the rounds at least.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{codes, installation, login, login_from, nobody};

/// What is told apart in every one of so many rounds is told apart.
const ROUNDS: usize = 4;

/// How closely it is looked.
struct Look {
    /// How many of each kind are asked in a round.
    samples: usize,
    /// How far from a half tells two apart: several times what chance makes of so many samples.
    apart: f64,
    /// How many of the kinds, the last ones, are told from the first by anybody.
    told: usize,
}

/// How often one of `left` took longer than one of `right`, of all pairs.
fn longer(left: &[Duration], right: &[Duration]) -> f64 {
    let wins = |l: &Duration| {
        right
            .iter()
            .map(|r| {
                if l > r {
                    1.0
                } else if l == r {
                    0.5
                } else {
                    0.0
                }
            })
            .sum::<f64>()
    };
    left.iter().map(wins).sum::<f64>() / (left.len() * right.len()) as f64
}

/// Whom of the others it is not so of: that they cannot be told from the first kind by their times, or, of those that
/// anybody tells, that they can.
async fn wrong<F: Future<Output = ()>>(
    look: Look,
    kinds: &[&str],
    mut ask: impl FnMut(usize, usize) -> F,
) -> Vec<String> {
    let Look { samples, apart, told } = look;
    let mut wrong: Vec<usize> = (1..kinds.len()).collect();
    // The first of each pay for what the program keeps from then on.
    for kind in 0..kinds.len() {
        ask(kind, 0).await;
    }
    for round in 0..ROUNDS {
        let mut took = vec![Vec::new(); kinds.len()];
        for sample in 0..samples {
            for turn in 0..kinds.len() {
                // Not always in the same order.
                let kind = (turn + sample) % kinds.len();
                let began = Instant::now();
                ask(kind, 1 + round * samples + sample).await;
                took[kind].push(began.elapsed());
            }
        }
        wrong.retain(|&kind| {
            let part = longer(&took[kind], &took[0]);
            println!("| {} | longer than {} in | {:.2} | of all pairs |", kinds[kind], kinds[0], part);
            let is_told = kind >= kinds.len() - told;
            ((part - 0.5).abs() > apart) != is_told
        });
        if wrong.is_empty() {
            break;
        }
    }
    wrong.into_iter().map(|kind| kinds[kind].to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_in_takes_as_long_for_who_is_not_there() {
    let (server, operator, ada) = installation().await;
    let nobody = nobody(&ada);
    let kinds =
        ["nobody's address", "another that is nobody's", "Ada's address", "no address at all", "nothing to look for"];
    let ask = |kind: usize, n: usize| {
        let (nobody, address) = (nobody.clone(), format!("198.51.100.{n}"));
        async move {
            let mut body = login("", "violet-otter-93-lamq");
            let input = &mut body["variables"]["input"];
            match ["nobody@example.org", "none@example.org", "ada@example.org", "none"].get(kind) {
                Some(email) => input["email"] = json!(email),
                // No password is looked at: this takes less, and that is seen.
                None => drop(input.as_object_mut().unwrap().remove("email")),
            }
            let answer = login_from(&nobody, &address, body).await;
            assert_eq!(codes(&answer), [if kind < 4 { "INVALID_CREDENTIALS" } else { "INVALID" }], "{answer}");
        }
    };
    assert_eq!(wrong(Look { samples: 12, apart: 0.25, told: 1 }, &kinds, ask).await, Vec::<String>::new());
    drop((server, operator));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_of_another_takes_as_long_as_one_of_nobody() {
    let (server, _, victim) = installation().await;
    let thief = server.register("Thief").await;
    let project = victim.create_project("SECRET").await;
    let document = victim.upload(&project, "secret.txt", b"nobody's business".to_vec()).await["document"]["id"].clone();
    let document = document.as_str().unwrap().to_owned();
    let own = thief.create_project("MINE").await;
    let absent = |id: &str, n: usize| format!("{}{n:026}", &id[..4]);
    // Under another name each time, so that no answer is kept.
    let project_is = |n: usize, id: String| {
        (format!("query($id: ID!) {{ a{n}: project(id: $id) {{ id name }} }}"), json!({ "id": id }))
    };
    let node_is =
        |n: usize, id: String| (format!("query($id: ID!) {{ a{n}: node(id: $id) {{ id }} }}"), json!({ "id": id }));
    let change = |n: usize, id: String| {
        let query = format!(
            "mutation($id: ID!) {{ a{n}: projectUpdate(input: {{ id: $id, name: \"Name {n}\" }}) {{ userErrors {{ code }} }} }}"
        );
        (query, json!({ "id": id }))
    };
    /// The operation that asks for this id, and its variables; no two questions have the same text.
    type Question<'a> = &'a dyn Fn(usize, String) -> (String, Value);
    let all: [(&str, Question<'_>, &str); 3] =
        [("project", &project_is, &project), ("node", &node_is, &document), ("projectUpdate", &change, &project)];
    for (what, question, id) in all {
        let kinds =
            [format!("{what} of nobody's id"), format!("{what} of another such"), format!("{what} of the victim's")];
        let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
        let ask = |kind: usize, n: usize| {
            let id = if kind == 2 { id.to_owned() } else { absent(id, 2 * n + kind) };
            let (query, variables) = question(n * 10 + kind, id);
            let thief = thief.clone();
            async move { is_not_there(&thief.raw(&query, variables).await) }
        };
        // What is in use is at hand, and what is at hand is found sooner.
        let used = victim.ask(&change(0, project.clone()).0, json!({ "id": project })).await;
        assert_eq!(used["a0"]["userErrors"], json!([]), "{used}");
        assert_eq!(wrong(Look { samples: 200, apart: 0.12, told: 0 }, &kinds, ask).await, Vec::<String>::new());
    }
    // What is one's own is found.
    let (query, variables) = project_is(0, own);
    assert_eq!(thief.ask(&query, variables).await["a0"]["name"], "Project MINE");
}

fn is_not_there(answer: &Value) {
    let (_, found) = answer["data"].as_object().unwrap().iter().next().unwrap();
    assert!(found.is_null() || codes(answer) == ["NOT_FOUND"], "{answer}");
}
