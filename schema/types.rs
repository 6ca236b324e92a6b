//! What the contract says about its types, to be looked up while a request is answered.

use std::collections::HashMap;
use std::sync::LazyLock;

use async_graphql::parser::parse_schema;
use async_graphql::parser::types::{BaseType, Type, TypeKind, TypeSystemDefinition};

/// A field of an object.
struct Field {
    /// The name of its type, whatever it is a list of.
    of: String,
    takes_arguments: bool,
}

/// The fields of each object, by their names.
static OBJECTS: LazyLock<Option<HashMap<String, HashMap<String, Field>>>> = LazyLock::new(|| {
    let mut objects = HashMap::new();
    for definition in parse_schema(crate::sdl()).ok()?.definitions {
        let TypeSystemDefinition::Type(declared) = definition else { continue };
        if let TypeKind::Object(object) = declared.node.kind {
            let fields = object.fields.iter().map(|field| {
                let takes_arguments = !field.node.arguments.is_empty();
                (field.node.name.node.to_string(), Field { of: named(&field.node.ty.node), takes_arguments })
            });
            objects.insert(declared.node.name.node.to_string(), fields.collect());
        }
    }
    Some(objects)
});

fn named(ty: &Type) -> String {
    match &ty.base {
        BaseType::Named(name) => name.to_string(),
        BaseType::List(of) => named(of),
    }
}

/// The name of the type of a field; nothing where the contract knows no such field.
pub(crate) fn type_of(object: &str, field: &str) -> Option<&'static str> {
    Some(OBJECTS.as_ref()?.get(object)?.get(field)?.of.as_str())
}

/// Whether an object has this field, and it is a value or a list of values that nothing has to be said for.
pub(crate) fn is_value(object: &str, field: &str) -> bool {
    let Some(objects) = &*OBJECTS else { return false };
    let field = objects.get(object).and_then(|fields| fields.get(field));
    // Unions and interfaces are no objects either: what has values has no field of such a type.
    field.is_some_and(|field| !field.takes_arguments && !objects.contains_key(&field.of))
}
