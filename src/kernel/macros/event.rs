//! `#[derive(Event)]`.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{Data, DeriveInput, Error, Field, Fields, Ident, LitInt, LitStr, Path, Result, Token, Type, Variant};

struct EventType {
    name: LitStr,
    version: i16,
    upcasts: Vec<Path>,
}

pub fn derive(input: DeriveInput) -> Result<TokenStream> {
    let Data::Enum(data) = &input.data else {
        return Err(Error::new_spanned(&input, "events are an enum with a variant for each event type"));
    };
    let (stream, effect) = stream(&input)?;
    let effect = effect.map(|effect| {
        quote! {
            fn effect(&self) -> ::std::option::Option<::oriel_kernel::Effect<'_>> {
                #effect(self)
            }
        }
    });
    let name = &input.ident;
    let variants =
        data.variants.iter().map(|variant| Ok((variant, event_type(variant)?))).collect::<Result<Vec<_>>>()?;

    let types = variants.iter().map(|(_, t)| {
        let (name, version) = (&t.name, t.version);
        quote!((#name, #version))
    });
    let type_arms = variants.iter().map(|(v, t)| {
        let (ident, name) = (&v.ident, &t.name);
        quote!(Self::#ident { .. } => #name)
    });
    let version_arms = variants.iter().map(|(v, t)| {
        let (ident, version) = (&v.ident, t.version);
        quote!(Self::#ident { .. } => #version)
    });
    let encode_arms = variants.iter().map(|(v, _)| encode_arm(v)).collect::<Result<Vec<_>>>()?;
    let decode_arms = variants.iter().map(|(v, t)| decode_arm(v, t)).collect::<Result<Vec<_>>>()?;
    let shown_arms = variants.iter().map(|(v, _)| shown_arm(v));
    let visit_arms = variants.iter().map(|(v, _)| visit_arm(v));

    Ok(quote! {
        const _: () = {
            use ::oriel_kernel::private::{serde, serde_json};

            impl ::oriel_kernel::Event for #name {
                const STREAM: &'static str = #stream;
                const TYPES: &'static [(&'static str, i16)] = &[#(#types),*];

                fn event_type(&self) -> &'static str {
                    match self { #(#type_arms),* }
                }

                fn type_version(&self) -> i16 {
                    match self { #(#version_arms),* }
                }

                fn encode(&self) -> ::std::result::Result<::std::vec::Vec<u8>, serde_json::Error> {
                    match self { #(#encode_arms),* }
                }

                fn decode(
                    event_type: &str,
                    type_version: i16,
                    payload: &[u8],
                ) -> ::std::result::Result<Self, ::oriel_kernel::EventDecodeError> {
                    let unknown = || ::oriel_kernel::EventDecodeError::Unknown {
                        event_type: event_type.to_owned(),
                        type_version,
                    };
                    let broken = |source| ::oriel_kernel::EventDecodeError::Payload {
                        event_type: event_type.to_owned(),
                        type_version,
                        source,
                    };
                    match event_type {
                        #(#decode_arms,)*
                        _ => ::std::result::Result::Err(unknown()),
                    }
                }

                fn shown(&self) -> ::std::result::Result<serde_json::Value, serde_json::Error> {
                    #[allow(unused_mut)]
                    let mut fields = serde_json::Map::new();
                    match self { #(#shown_arms),* }
                    ::std::result::Result::Ok(serde_json::Value::Object(fields))
                }

                #[allow(unused_variables)]
                fn visit_personal(&mut self, visitor: &mut dyn ::oriel_kernel::PersonalVisitor) {
                    match self { #(#visit_arms),* }
                }

                #effect
            }
        };
    })
}

/// The stream's name, and the function that says what an event does by itself.
fn stream(input: &DeriveInput) -> Result<(LitStr, Option<Path>)> {
    let (mut stream, mut effect) = (None, None);
    for attribute in input.attrs.iter().filter(|a| a.path().is_ident("event")) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("stream") {
                stream = Some(meta.value()?.parse::<LitStr>()?);
                Ok(())
            } else if meta.path.is_ident("effect") {
                effect = Some(meta.value()?.parse::<Path>()?);
                Ok(())
            } else {
                Err(meta.error("expected `stream = \"name\"` or `effect = function`"))
            }
        })?;
    }
    let stream = stream.ok_or_else(|| Error::new_spanned(&input.ident, "say `#[event(stream = \"name\")]`"))?;
    Ok((stream, effect))
}

fn event_type(variant: &Variant) -> Result<EventType> {
    let attribute = variant
        .attrs
        .iter()
        .find(|a| a.path().is_ident("event"))
        .ok_or_else(|| Error::new_spanned(variant, "say `#[event(\"type_name\")]`: the name is data and stays"))?;
    attribute.parse_args_with(|input: syn::parse::ParseStream<'_>| {
        let mut event = EventType { name: input.parse()?, version: 1, upcasts: Vec::new() };
        while !input.is_empty() {
            input.parse::<Token![,]>()?;
            if input.is_empty() {
                break;
            }
            let key: Ident = input.parse()?;
            input.parse::<Token![=]>()?;
            if key == "version" {
                event.version = input.parse::<LitInt>()?.base10_parse()?;
            } else if key == "upcast" {
                event.upcasts.push(input.parse()?);
            } else {
                return Err(Error::new_spanned(key, "expected `version` or `upcast`"));
            }
        }
        if event.upcasts.len() + 1 != event.version as usize {
            return Err(Error::new_spanned(&event.name, "version N needs N - 1 `upcast`s, oldest first"));
        }
        Ok(event)
    })
}

fn fields(variant: &Variant) -> Result<Vec<&Field>> {
    match &variant.fields {
        Fields::Named(named) => Ok(named.named.iter().collect()),
        Fields::Unit => Ok(Vec::new()),
        Fields::Unnamed(_) => Err(Error::new_spanned(variant, "fields of an event have names: they are data")),
    }
}

fn parts(field: &Field) -> (&Option<Ident>, &Type) {
    (&field.ident, &field.ty)
}

fn encode_arm(variant: &Variant) -> Result<TokenStream> {
    let ident = &variant.ident;
    let fields = fields(variant)?;
    let names: Vec<_> = fields.iter().map(|f| parts(f).0).collect();
    let types: Vec<_> = fields.iter().map(|f| parts(f).1).collect();
    if names.is_empty() {
        return Ok(quote!(Self::#ident {} => ::std::result::Result::Ok(b"{}".to_vec())));
    }
    let optional: Vec<_> = types
        .iter()
        .map(|ty| {
            // An absent value is left out, so that adding an optional field changes no bytes that were written.
            if is(ty, "Option") { quote!(#[serde(skip_serializing_if = "is_none")]) } else { quote!() }
        })
        .collect();
    Ok(quote! {
        Self::#ident { #(#names),* } => {
            #[allow(dead_code)]
            fn is_none<T>(value: &&::std::option::Option<T>) -> bool { value.is_none() }
            #[derive(serde::Serialize)]
            #[serde(crate = "::oriel_kernel::private::serde")]
            struct Payload<'a> { #(#optional #names: &'a #types),* }
            serde_json::to_vec(&Payload { #(#names),* })
        }
    })
}

fn decode_arm(variant: &Variant, event: &EventType) -> Result<TokenStream> {
    let ident = &variant.ident;
    let fields = fields(variant)?;
    let names: Vec<_> = fields.iter().map(|f| parts(f).0).collect();
    let types: Vec<_> = fields.iter().map(|f| parts(f).1).collect();
    let defaults = types.iter().map(|ty| if is(ty, "Option") { quote!(#[serde(default)]) } else { quote!() });
    let (name, version) = (&event.name, event.version);
    let steps = event
        .upcasts
        .iter()
        .zip(1i16..)
        .map(|(upcast, from)| quote!(if type_version <= #from { value = #upcast(value); }));
    let parse = if event.upcasts.is_empty() {
        quote!(serde_json::from_slice::<Payload>(payload).map_err(broken)?)
    } else {
        quote! {
            if type_version == #version {
                serde_json::from_slice::<Payload>(payload).map_err(broken)?
            } else {
                let mut value: serde_json::Value = serde_json::from_slice(payload).map_err(broken)?;
                #(#steps)*
                serde_json::from_value::<Payload>(value).map_err(broken)?
            }
        }
    };
    Ok(quote! {
        #name => {
            if !(1..=#version).contains(&type_version) {
                return ::std::result::Result::Err(unknown());
            }
            #[derive(serde::Deserialize)]
            #[serde(crate = "::oriel_kernel::private::serde")]
            struct Payload { #(#defaults #names: #types),* }
            #[allow(unused_variables)]
            let payload = #parse;
            ::std::result::Result::Ok(Self::#ident { #(#names: payload.#names),* })
        }
    })
}

fn shown_arm(variant: &Variant) -> TokenStream {
    let ident = &variant.ident;
    let names: Vec<_> = variant.fields.iter().filter_map(|field| field.ident.as_ref()).collect();
    let inserts = variant.fields.iter().filter_map(|field| {
        let name = field.ident.as_ref()?;
        let key = name.to_string();
        let value = if is(&field.ty, "Personal") {
            quote!(#name.shown()?)
        } else if inner(&field.ty, "Option").is_some_and(|ty| is(ty, "Personal")) {
            quote!(#name.as_ref().map(|value| value.shown()).transpose()?.unwrap_or_default())
        } else {
            quote!(serde_json::to_value(#name)?)
        };
        Some(quote!(fields.insert(#key.to_owned(), #value);))
    });
    quote!(Self::#ident { #(#names),* } => { #(#inserts)* })
}

fn visit_arm(variant: &Variant) -> TokenStream {
    let ident = &variant.ident;
    let mut bound = Vec::new();
    let mut visits = Vec::new();
    for field in &variant.fields {
        let Some(name) = &field.ident else { continue };
        if is(&field.ty, "Personal") {
            bound.push(name);
            visits.push(quote!(visitor.visit(#name);));
        } else if inner(&field.ty, "Option").is_some_and(|ty| is(ty, "Personal")) {
            let each = format_ident!("each_{name}");
            bound.push(name);
            visits.push(quote!(if let ::std::option::Option::Some(#each) = #name { visitor.visit(#each); }));
        }
    }
    quote!(Self::#ident { #(#bound,)* .. } => { #(#visits)* })
}

fn is(ty: &Type, name: &str) -> bool {
    matches!(ty, Type::Path(path) if path.path.segments.last().is_some_and(|s| s.ident == name))
}

fn inner<'a>(ty: &'a Type, outer: &str) -> Option<&'a Type> {
    let Type::Path(path) = ty else { return None };
    let segment = path.path.segments.last().filter(|s| s.ident == outer)?;
    let syn::PathArguments::AngleBracketed(arguments) = &segment.arguments else { return None };
    arguments.args.iter().find_map(|a| match a {
        syn::GenericArgument::Type(ty) => Some(ty),
        _ => None,
    })
}
