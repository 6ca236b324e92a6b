//! Signing in by an identity provider, through the real program: with a real provider, and with one that lies.

use std::collections::BTreeSet;

use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

use crate::second_factor::oathtool;
use crate::support::provider::{BACK, Back, CLIENT, Provider, SECRET, Scripted};
use crate::support::{Server, Session, databases};

const SIGNED_IN: &str = "{ accessToken refreshToken mfaToken userErrors { code message }
    viewer { user { id name email } member { id roles { name } } session { providerId } organizations { name } } }";
const PROVIDER: &str = "{ identityProvider { id name hasClientSecret version } userErrors { code path message } }";

async fn server(database: Option<String>) -> Server {
    let mut environment = vec![("ORIEL_IDENTITY_NETWORKS", "127.0.0.0/8".to_owned())];
    environment.extend(database.map(|url| ("ORIEL_DATABASE_URL", url)));
    Server::start_among(environment).await
}

async fn mutate(session: &Session, field: &str, input: Value, selection: &str) -> Value {
    let type_name = format!("{}{}Input", field[..1].to_uppercase(), &field[1..]);
    let query = format!("mutation($input: {type_name}!) {{ {field}(input: $input) {selection} }}");
    session.ask(&query, json!({ "input": input })).await[field].take()
}

fn codes(payload: &Value) -> Vec<&str> {
    payload["userErrors"].as_array().unwrap().iter().map(|error| error["code"].as_str().unwrap()).collect()
}

fn nobody(session: &Session) -> Session {
    Session { token: String::new(), ..session.clone() }
}

fn signed_in(session: &Session, payload: &Value) -> Session {
    let token = payload["accessToken"].as_str().unwrap_or_else(|| panic!("{payload:#}")).to_owned();
    Session { token, ..session.clone() }
}

/// Sets up a provider that gives the groups `staff` and `boss` a role, lets in example.org and takes in who is new.
async fn set_up(owner: &Session, issuer: &str) -> String {
    let input = json!({
        "name": "Company account", "issuer": issuer, "clientId": CLIENT, "clientSecret": SECRET,
        "redirectUris": [BACK], "scopes": ["email", "profile"], "rolesClaim": "groups",
        "roleMappings": [{ "value": "staff", "role": "member" }, { "value": "boss", "role": "admin" }],
        "provisions": true, "emailDomains": ["example.org"], "trustsEmail": true,
    });
    let made = mutate(owner, "identityProviderCreate", input, PROVIDER).await;
    made["identityProvider"]["id"].as_str().unwrap_or_else(|| panic!("{made:#}")).to_owned()
}

async fn change(owner: &Session, provider: &str, change: Value) {
    let mut input = json!({ "id": provider });
    input.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    let changed = mutate(owner, "identityProviderUpdate", input, PROVIDER).await;
    assert_eq!(changed["userErrors"], json!([]));
}

/// The address to go to, and the token to keep.
async fn begin(who: &Session, field: &str, provider: &str) -> (String, String) {
    let input = json!({ "providerId": provider, "redirectUri": BACK });
    let begun = mutate(who, field, input, "{ authorizationUrl loginToken userErrors { code message } }").await;
    let text = |name: &str| begun[name].as_str().unwrap_or_else(|| panic!("{begun:#}")).to_owned();
    (text("authorizationUrl"), text("loginToken"))
}

fn with(token: &str, back: &Back) -> Value {
    json!({ "loginToken": token, "state": back.state, "code": back.code, "iss": back.iss })
}

/// The whole way of somebody at the real provider.
async fn login(anybody: &Session, provider: &Provider, id: &str, login: &str) -> Value {
    let (url, token) = begin(&nobody(anybody), "providerLoginBegin", id).await;
    let back = provider.visit(&url, login).await;
    mutate(&nobody(anybody), "providerLogin", with(&token, &back), SIGNED_IN).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_provider_signs_people_in_and_their_roles_follow_it() {
    for database in databases() {
        let Some(mut provider) = Provider::start() else { return };
        let server = server(database).await;
        let owner = server.register("Ada").await;
        let person = |name: &str, group: &str| json!({ "email": format!("{name}@example.org"), "email_verified": true, "name": name, "groups": [group] });
        let people = |bob: &str| json!({ "grace": person("grace", "staff"), "bob": person("bob", bob), "ada": person("ada", "staff"), "sid": person("sid", "guests") });
        provider.knows(&people("staff"));
        let id = set_up(&owner, &provider.issuer).await;
        let seen = owner.ask("{ identityProviders { id name hasClientSecret roleMappings { value role { name } } } organization { slug } events(first: 100) { nodes { data } } }", json!({})).await;
        assert_eq!(
            seen["identityProviders"][0]["roleMappings"][1],
            json!({ "value": "boss", "role": { "name": "admin" } })
        );
        assert!(!seen.to_string().contains("what the client shows"), "the secret is shown");
        let slug = seen["organization"]["slug"].clone();
        let offered = nobody(&owner)
            .ask("query($slug: String!) { loginProviders(organization: $slug) { id name } }", json!({ "slug": slug }))
            .await;
        assert_eq!(offered["loginProviders"], json!([{ "id": id, "name": "Company account" }]));

        // Who is new becomes a member, once.
        let first = login(&owner, &provider, &id, "grace").await;
        assert_eq!(first["viewer"]["member"]["roles"], json!([{ "name": "member" }]), "{first:#}");
        assert_eq!(
            (&first["viewer"]["user"]["name"], &first["viewer"]["session"]["providerId"]),
            (&json!("grace"), &json!(id))
        );
        let again = login(&owner, &provider, &id, "grace").await;
        assert_eq!(again["viewer"]["user"]["id"], first["viewer"]["user"]["id"]);
        assert_ne!(again["accessToken"], first["accessToken"]);
        let sid = login(&owner, &provider, &id, "sid").await;
        assert_eq!(codes(&sid), ["FORBIDDEN"], "none of their groups has a role");

        // Who has an account already keeps it; an admin who may not vouch for the owner does not.
        let bob = owner.join("Bob", "viewer").await;
        let by_provider = login(&owner, &provider, &id, "bob").await;
        let of_bob =
            bob.ask("{ viewer { user { id } member { roles { name } } identities { id email } } }", json!({})).await;
        assert_eq!(by_provider["viewer"]["user"]["id"], of_bob["viewer"]["user"]["id"]);
        assert_eq!(of_bob["viewer"]["member"]["roles"], json!([{ "name": "member" }]));
        assert_eq!(of_bob["viewer"]["identities"][0]["email"], "bob@example.org");
        let admin = owner.join("Adele", "admin").await;
        change(&admin, &id, json!({ "name": "The company's" })).await;
        assert_eq!(
            codes(&login(&owner, &provider, &id, "ada").await),
            ["FORBIDDEN"],
            "the owner is nobody's to vouch for"
        );
        let (url, token) = begin(&owner, "identityLinkBegin", &id).await;
        let back = provider.visit(&url, "ada").await;
        let linked =
            mutate(&owner, "identityLink", with(&token, &back), "{ identity { id providerId } userErrors { code } }")
                .await;
        assert_eq!(linked["identity"]["providerId"], json!(id), "{linked}");
        let ada = login(&owner, &provider, &id, "ada").await;
        assert_eq!(ada["viewer"]["member"]["roles"], json!([{ "name": "owner" }]), "an owner stays one");

        // Other groups are other roles, for every session and at once.
        provider.knows(&people("boss"));
        login(&owner, &provider, &id, "bob").await;
        let of_bob = bob.ask("{ viewer { member { roles { name } } permissions } }", json!({})).await["viewer"].take();
        assert_eq!(of_bob["member"]["roles"], json!([{ "name": "admin" }]));
        assert!(of_bob["permissions"].as_array().unwrap().contains(&json!("members:*")));
        provider.knows(&people("guests"));
        assert_eq!(codes(&login(&owner, &provider, &id, "bob").await), ["FORBIDDEN"]);
        provider.knows(&people("staff"));

        // It speaks for them in its organisation alone.
        let elsewhere = server.register("Other").await;
        let invited = mutate(
            &elsewhere,
            "memberInvite",
            json!({ "email": "bob@example.org", "roles": ["viewer"] }),
            "{ invitationToken }",
        )
        .await;
        let accept = json!({ "token": invited["invitationToken"], "password": "correct horse battery" });
        let there =
            mutate(&nobody(&owner), "memberAccept", accept, "{ viewer { organization { id } } userErrors { code } }")
                .await;
        let confined = signed_in(&owner, &login(&owner, &provider, &id, "bob").await);
        let sees = confined.ask("{ viewer { organizations { name } sessions { providerId } } }", json!({})).await;
        assert_eq!(sees["viewer"]["organizations"], json!([{ "name": "Ada" }]));
        let export = mutate(&bob, "dataExportRequest", json!({}), "{ dataExport { id } }").await["dataExport"].take();
        let node = "query($id: ID!) { node(id: $id) { id } }";
        assert_eq!(bob.ask(node, export.clone()).await["node"], export, "one's own");
        assert_eq!(confined.ask(node, export.clone()).await["node"], Value::Null, "it is of every organization");
        for query in ["query($id: ID!) { dataExport(id: $id) { id } }", "{ dataExports { nodes { id } } }"] {
            let refused = confined.raw(query, export.clone()).await;
            let message = refused["errors"][0]["message"].as_str().unwrap();
            assert!(message.contains("speaks for you here alone"), "{refused}");
        }
        let switch = json!({ "organizationId": there["viewer"]["organization"]["id"] });
        assert_eq!(
            codes(&mutate(&confined, "sessionSwitch", switch.clone(), "{ userErrors { code } }").await),
            ["FORBIDDEN"]
        );
        for (field, input) in [
            ("userUpdate", json!({ "name": "Not Bob" })),
            ("organizationCreate", json!({ "name": "Bobs" })),
            ("identityLinkBegin", json!({ "providerId": id, "redirectUri": BACK })),
        ] {
            assert_eq!(
                codes(&mutate(&confined, field, input, "{ userErrors { code } }").await),
                ["FORBIDDEN"],
                "{field}"
            );
        }
        let bob_everywhere = bob.ask("{ viewer { organizations { name } } }", json!({})).await;
        assert_eq!(bob_everywhere["viewer"]["organizations"].as_array().unwrap().len(), 2);

        // A second factor is asked for as after a password, and does not make more of the session.
        let password = json!({ "currentPassword": "correct horse battery" });
        let secret = mutate(&bob, "totpBegin", password, "{ secret }").await["secret"].as_str().unwrap().to_owned();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        if let (Some(one), Some(two)) = (oathtool(&secret, now, 0), oathtool(&secret, now, 1)) {
            let confirmed = mutate(&bob, "totpConfirm", json!({ "code": one }), "{ userErrors { code } }").await;
            assert_eq!(codes(&confirmed), Vec::<&str>::new());
            let asked = login(&owner, &provider, &id, "bob").await;
            assert_eq!((codes(&asked), &asked["accessToken"]), (vec!["MFA_REQUIRED"], &Value::Null));
            let verify = json!({ "mfaToken": asked["mfaToken"], "code": two });
            let verified = mutate(&nobody(&owner), "loginVerify", verify, SIGNED_IN).await;
            assert_eq!(verified["viewer"]["session"]["providerId"], json!(id), "{verified:#}");
            let verified = signed_in(&owner, &verified);
            assert_eq!(
                codes(&mutate(&verified, "sessionSwitch", switch, "{ userErrors { code } }").await),
                ["FORBIDDEN"]
            );
        }

        // Other keys are found; a provider that is away is said to be.
        provider.rotate();
        let grace = login(&owner, &provider, &id, "grace").await;
        assert!(grace["accessToken"].is_string(), "{grace:#}");
        let (url, token) = begin(&nobody(&owner), "providerLoginBegin", &id).await;
        let back = provider.visit(&url, "grace").await;
        provider.kill();
        let away = mutate(&nobody(&owner), "providerLogin", with(&token, &back), SIGNED_IN).await;
        assert_eq!((codes(&away), &away["accessToken"]), (vec!["UNAVAILABLE"], &Value::Null));
        let backends = owner.ask("{ system { backends { name kind healthy lastError } } }", json!({})).await;
        let shown =
            backends["system"]["backends"].as_array().unwrap().iter().find(|one| one["name"] == "identity").unwrap();
        assert!(shown["healthy"] == true && shown["lastError"].is_string(), "{shown}");

        // What it began ends with it, and is not refreshed.
        let of_grace = signed_in(&owner, &grace);
        of_grace.ask("{ viewer { user { id } } }", json!({})).await;
        let deleted = mutate(&owner, "identityProviderDelete", json!({ "id": id }), PROVIDER).await;
        assert_eq!(codes(&deleted), Vec::<&str>::new());
        let over = of_grace.raw("{ viewer { user { id } } }", json!({})).await;
        assert_eq!(over["errors"][0]["extensions"]["code"], "UNAUTHENTICATED", "{over}");
        let refresh = json!({ "refreshToken": grace["refreshToken"] });
        assert_eq!(codes(&mutate(&nobody(&owner), "sessionRefresh", refresh, SIGNED_IN).await), ["EXPIRED"]);
        let left = bob.ask("{ viewer { identities { id } member { roles { name } } } }", json!({})).await;
        assert_eq!(left["viewer"]["identities"], json!([]), "they stay members: {left}");
    }
}

/// A provider that lies, set up in an organisation, and its owner.
async fn liar() -> (Server, Session, Scripted, String) {
    let (server, provider) = (server(None).await, Scripted::start().await);
    let owner = server.register("Ada").await;
    let id = set_up(&owner, &provider.issuer).await;
    change(&owner, &id, json!({ "rolesClaim": null, "defaultRoles": ["viewer"] })).await;
    (server, owner, provider, id)
}

async fn attempt(owner: &Session, provider: &Scripted, id: &str) -> Value {
    let (url, token) = begin(&nobody(owner), "providerLoginBegin", id).await;
    let back = provider.visit(&url);
    mutate(&nobody(owner), "providerLogin", with(&token, &back), SIGNED_IN).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_token_signs_nobody_in() {
    let (_server, owner, provider, id) = liar().await;
    type Forge = fn(&crate::support::provider::Signer, Value) -> String;
    fn unsigned(alg: &str, claims: &Value) -> String {
        let part = |value: &Value| data_encoding::BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        format!("{}.{}.", part(&json!({ "alg": alg, "kid": "scripted" })), part(claims))
    }
    fn but(mut claims: Value, name: &str, value: Value) -> Value {
        claims[name] = value;
        claims
    }
    let forged: [(&str, Forge); 11] = [
        ("alg none", |_, claims| unsigned("none", &claims)),
        ("HS256 with the client's secret", |signer, claims| {
            signer.sign_as(&claims, Algorithm::HS256, &EncodingKey::from_secret(SECRET.as_bytes()))
        }),
        ("HS256 with the public key", |signer, claims| {
            signer.sign_as(&claims, Algorithm::HS256, &EncodingKey::from_secret(signer.public.as_bytes()))
        }),
        ("a signature of another token", |signer, claims| {
            let (good, other) = (signer.sign(&claims), unsigned("EdDSA", &but(claims, "sub", json!("ada"))));
            format!("{other}{}", good.rsplit('.').next().unwrap())
        }),
        ("another audience", |signer, claims| signer.sign(&but(claims, "aud", json!("another")))),
        ("another party", |signer, claims| signer.sign(&but(claims, "azp", json!("another")))),
        ("another issuer", |signer, claims| signer.sign(&but(claims, "iss", json!("https://id.example.org")))),
        ("another nonce", |signer, claims| signer.sign(&but(claims, "nonce", json!("another")))),
        ("no nonce", |signer, claims| signer.sign(&but(claims, "nonce", Value::Null))),
        ("ended", |signer, claims| signer.sign(&but(claims, "exp", json!(1_700_000_000)))),
        ("of long ago", |signer, claims| signer.sign(&but(claims, "iat", json!(1_700_000_000)))),
    ];
    for (what, forge) in forged {
        provider.says(move |signer, claims| json!({ "id_token": forge(signer, claims) }));
        let refused = attempt(&owner, &provider, &id).await;
        assert_eq!((codes(&refused), &refused["accessToken"]), (vec!["INVALID_CREDENTIALS"], &Value::Null), "{what}");
    }
    let members = owner.ask("{ members { totalCount } }", json!({})).await;
    assert_eq!(members["members"]["totalCount"], 1, "nobody joined");
    provider.says(|signer, claims| json!({ "id_token": signer.sign(&claims) }));
    let right = attempt(&owner, &provider, &id).await;
    assert!(right["accessToken"].is_string(), "{right:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_browser_begins_no_other_ends_and_nobody_twice() {
    let (server, owner, provider, id) = liar().await;
    let anybody = nobody(&owner);
    let login = async |input: Value| mutate(&anybody, "providerLogin", input, SIGNED_IN).await;
    // An attacker's code and state, planted in the browser of somebody who has begun an attempt of their own.
    let (url, _) = begin(&anybody, "providerLoginBegin", &id).await;
    let planted = provider.visit(&url);
    let (_, token) = begin(&anybody, "providerLoginBegin", &id).await;
    assert_eq!(codes(&login(with(&token, &planted)).await), ["EXPIRED"], "a state of another browser");
    assert_eq!(codes(&login(with(&planted.state, &planted)).await), ["EXPIRED"], "the state is not the token");
    // A code of another attempt, with the right state: its token has another nonce.
    let (url, token) = begin(&anybody, "providerLoginBegin", &id).await;
    let mixed = Back { code: planted.code.clone(), ..provider.visit(&url) };
    assert_eq!(codes(&login(with(&token, &mixed)).await), ["INVALID_CREDENTIALS"], "a code of another attempt");
    // Another issuer, or none: a mix-up. Neither is asked for a token.
    let exchanges = provider.exchanges();
    for iss in [Some("https://id.example.org".to_owned()), None] {
        let (url, token) = begin(&anybody, "providerLoginBegin", &id).await;
        let back = Back { iss, ..provider.visit(&url) };
        assert_eq!(codes(&login(with(&token, &back)).await), ["INVALID_CREDENTIALS"], "{back:?}");
    }
    assert_eq!(provider.exchanges(), exchanges);
    // Twice: this provider takes a code as often as it is brought.
    let (url, token) = begin(&anybody, "providerLoginBegin", &id).await;
    let back = provider.visit(&url);
    assert!(login(with(&token, &back)).await["accessToken"].is_string());
    assert_eq!(codes(&login(with(&token, &back)).await), ["EXPIRED"], "a state is good once");
    let another = Back { code: provider.visit(&url).code, ..back };
    assert_eq!(codes(&login(with(&token, &another)).await), ["EXPIRED"], "with a fresh code too");
    assert_eq!(provider.exchanges(), exchanges + 1);

    // Sent elsewhere than was agreed on.
    for elsewhere in
        ["https://evil.example.org/", &format!("{BACK}/../evil"), &format!("{BACK}?x"), "javascript:alert(1)"]
    {
        let input = json!({ "providerId": id, "redirectUri": elsewhere });
        let refused =
            mutate(&anybody, "providerLoginBegin", input, "{ authorizationUrl userErrors { code path } }").await;
        assert_eq!(codes(&refused), ["INVALID"], "{elsewhere}");
    }

    // Somebody else's attempt to link is not taken for one's own, nor for signing in.
    let (bob, eve) = (owner.join("Bob", "member").await, owner.join("Mallory", "member").await);
    let (url, token) = begin(&eve, "identityLinkBegin", &id).await;
    let back = provider.visit(&url);
    let linked = mutate(&bob, "identityLink", with(&token, &back), "{ identity { id } userErrors { code } }").await;
    assert_eq!(codes(&linked), ["EXPIRED"], "{linked}");
    assert_eq!(codes(&login(with(&token, &back)).await), ["EXPIRED"]);
    let (url, token) = begin(&anybody, "providerLoginBegin", &id).await;
    let as_link = mutate(&bob, "identityLink", with(&token, &provider.visit(&url)), "{ userErrors { code } }").await;
    assert_eq!(codes(&as_link), ["EXPIRED"]);
    // What the provider calls one person is not given to another.
    let (url, token) = begin(&bob, "identityLinkBegin", &id).await;
    let taken = mutate(&bob, "identityLink", with(&token, &provider.visit(&url)), "{ userErrors { code } }").await;
    assert_eq!(codes(&taken), ["TAKEN"]);

    // A provider of one organisation is nothing in another.
    let other = server.register("Other").await;
    let input = json!({ "providerId": id, "redirectUri": BACK });
    assert_eq!(codes(&mutate(&other, "identityLinkBegin", input, "{ userErrors { code } }").await), ["NOT_FOUND"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_a_provider_only_says_is_nobodys_account() {
    let (_server, owner, provider, id) = liar().await;
    let bob = owner.join("Bob", "member").await;
    let of_bob = bob.ask("{ viewer { user { id } } }", json!({})).await["viewer"]["user"]["id"].clone();
    let says = |email: &'static str, verified: Value| {
        provider.says(move |signer, mut claims| {
            (claims["sub"], claims["email"], claims["email_verified"]) = (json!(email), json!(email), verified.clone());
            json!({ "id_token": signer.sign(&claims) })
        });
    };
    for (email, verified) in [
        ("bob@example.org", json!(false)),
        ("bob@example.org", Value::Null),
        ("new@example.org", json!(false)),
        ("new@evil.org", json!(true)),
        ("new@example.org.evil.org", json!(true)),
        ("new@sub.example.org", json!(true)),
    ] {
        says(email, verified);
        assert_eq!(codes(&attempt(&owner, &provider, &id).await), ["FORBIDDEN"], "{email}");
    }
    // Verified, and the provider is not to be believed about addresses.
    change(&owner, &id, json!({ "trustsEmail": false })).await;
    says("bob@example.org", json!(true));
    assert_eq!(codes(&attempt(&owner, &provider, &id).await), ["FORBIDDEN"]);
    // It is, and they are a member here.
    change(&owner, &id, json!({ "trustsEmail": true })).await;
    let right = attempt(&owner, &provider, &id).await;
    assert_eq!(right["viewer"]["user"]["id"], of_bob, "{right:#}");
    // Somebody who has an account, and is no member: nobody is made one by a provider.
    let others: BTreeSet<String> = [owner.join("Carol", "member").await].into_iter().map(|carol| carol.token).collect();
    assert_eq!(others.len(), 1);
    let carol = owner.ask("{ members { nodes { id user { email } } } }", json!({})).await;
    let carol = carol["members"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|m| m["user"]["email"] == "carol@example.org")
        .unwrap()["id"]
        .clone();
    let removed = mutate(&owner, "memberRemove", json!({ "id": carol }), "{ userErrors { code } }").await;
    assert_eq!(codes(&removed), Vec::<&str>::new());
    says("carol@example.org", json!(true));
    assert_eq!(codes(&attempt(&owner, &provider, &id).await), ["FORBIDDEN"]);
    // Off is off.
    change(&owner, &id, json!({ "enabled": false })).await;
    let input = json!({ "providerId": id, "redirectUri": BACK });
    assert_eq!(
        codes(&mutate(&nobody(&owner), "providerLoginBegin", input, "{ userErrors { code } }").await),
        ["NOT_FOUND"]
    );
    let ended = signed_in(&owner, &right).raw("{ viewer { user { id } } }", json!({})).await;
    assert_eq!(ended["errors"][0]["extensions"]["code"], "UNAUTHENTICATED", "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_has_this_server_ask_inside() {
    let server = Server::start(None).await;
    let owner = server.register("Ada").await;
    for issuer in
        ["http://127.0.0.1:1", "https://127.0.0.1", "https://10.0.0.1", "https://169.254.169.254", "https://localhost"]
    {
        let input = json!({ "name": "Inside", "issuer": issuer, "clientId": "x", "redirectUris": [BACK] });
        let refused = mutate(&owner, "identityProviderCreate", input, PROVIDER).await;
        let said = codes(&refused);
        assert!(
            said == ["INVALID"] || (issuer.ends_with("localhost") && said == ["UNAVAILABLE"]),
            "{issuer}: {refused}"
        );
    }
    let viewer = owner.join("Vic", "member").await;
    let input = json!({ "name": "Mine", "issuer": "https://id.example.org", "clientId": "x", "redirectUris": [BACK] });
    assert_eq!(codes(&mutate(&viewer, "identityProviderCreate", input, PROVIDER).await), ["FORBIDDEN"]);
}
