//! `#[operations(query)]` and `#[operations(mutation)]`.

use heck::ToLowerCamelCase;
use proc_macro2::TokenStream;
use quote::quote;
use syn::{
    Attribute, Error, FnArg, Ident, ImplItem, ImplItemFn, ItemImpl, LitStr, Pat, Result, ReturnType, Type, parse_quote,
};

pub fn expand(args: TokenStream, mut block: ItemImpl) -> Result<TokenStream> {
    let root: Ident = syn::parse2(args).map_err(|e| Error::new(e.span(), "say `query` or `mutation`"))?;
    let mutation = match root.to_string().as_str() {
        "mutation" => true,
        "query" => false,
        _ => return Err(Error::new_spanned(root, "say `query` or `mutation`")),
    };
    let place = if mutation { quote!(crate::access::Root::Mutation) } else { quote!(crate::access::Root::Query) };
    let mut listed = Vec::new();
    for item in &mut block.items {
        if let ImplItem::Fn(method) = item {
            let access = take_access(method)?;
            let name = method.sig.ident.to_string().to_lower_camel_case();
            let (value, last_line) = &access;
            let operation = quote!(crate::access::Operation { name: #name, root: #place, access: #value });
            listed.push(operation.clone());
            method.attrs.push(parse_quote!(#[doc = ""]));
            method.attrs.push(parse_quote!(#[doc = #last_line]));
            wrap(method, &operation, mutation)?;
        }
    }
    let this = &block.self_ty;
    Ok(quote! {
        #[::async_graphql::Object]
        #block

        impl #this {
            /// Every operation here, with who may call it.
            pub const OPERATIONS: &'static [crate::access::Operation] = &[#(#listed),*];
        }
    })
}

/// Removes the declaration from the method; gives it as a value and as a line of the description.
fn take_access(method: &mut ImplItemFn) -> Result<(TokenStream, String)> {
    let is_access =
        |a: &Attribute| ["permission", "signed_in", "authenticated", "public"].iter().any(|n| a.path().is_ident(n));
    let found: Vec<Attribute> = method.attrs.iter().filter(|a| is_access(a)).cloned().collect();
    method.attrs.retain(|a| !is_access(a));
    let [attribute] = found.as_slice() else {
        return Err(Error::new_spanned(
            &method.sig.ident,
            "declare who may call this, once: #[permission(\"module:action\")], #[signed_in], #[authenticated] or #[public]",
        ));
    };
    if attribute.path().is_ident("public") {
        return Ok((quote!(crate::access::Access::Public), "For everyone.".to_owned()));
    }
    if attribute.path().is_ident("signed_in") {
        return Ok((quote!(crate::access::Access::SignedIn), "For everyone who is signed in.".to_owned()));
    }
    if attribute.path().is_ident("authenticated") {
        let line = "For everyone who is signed in, and for API keys.".to_owned();
        return Ok((quote!(crate::access::Access::Authenticated), line));
    }
    let text: LitStr = attribute.parse_args()?;
    let value = text.value();
    let Some((module, action)) = value.split_once(':') else {
        return Err(Error::new_spanned(text, "a permission is `module:action`"));
    };
    Ok((
        quote!(crate::access::Access::Permission(::oriel_kernel::Permission::new(#module, #action))),
        format!("Requires the permission `{value}`."),
    ))
}

/// `-> Result<T>` becomes `-> Option<Result<T>>`, and the body runs only for those who may.
fn wrap(method: &mut ImplItemFn, operation: &TokenStream, mutation: bool) -> Result<()> {
    let ReturnType::Type(_, declared) = &method.sig.output else {
        return Err(Error::new_spanned(&method.sig, "an operation answers `Result<…>`"));
    };
    let declared = declared.clone();
    let answer = argument(&declared, "Result")
        .ok_or_else(|| Error::new_spanned(&declared, "an operation answers `Result<…>`"))?
        .clone();
    let context = method
        .sig
        .inputs
        .iter()
        .find_map(|input| match input {
            FnArg::Typed(typed) if is_context(&typed.ty) => match &*typed.pat {
                Pat::Ident(pat) => Some(pat.ident.clone()),
                _ => None,
            },
            _ => None,
        })
        .ok_or_else(|| Error::new_spanned(&method.sig, "an operation takes the `Context`"))?;
    let body = &method.block;
    // `granted` is visible to the body: who asks, and how far their permission reaches.
    let granted = Ident::new("granted", proc_macro2::Span::call_site());
    let (output, refuse, done) = if mutation {
        (quote!(#answer), quote!(crate::access::refuse_mutation(refusal)), quote!(crate::access::mutated(answer)))
    } else if let Some(inner) = argument(&answer, "Option") {
        (quote!(#inner), quote!(Some(Err(refusal.into()))), quote!(crate::access::answered(answer).transpose()))
    } else {
        (quote!(#answer), quote!(Some(Err(refusal.into()))), quote!(Some(crate::access::answered(answer))))
    };
    method.sig.output = parse_quote!(-> ::std::option::Option<::async_graphql::Result<#output>>);
    method.block = parse_quote!({
        #[allow(unused_variables)]
        let #granted = match crate::access::authorize(#context, #operation) {
            ::std::result::Result::Ok(granted) => granted,
            ::std::result::Result::Err(refusal) => return #refuse,
        };
        // In memory of its own: what is above it, up to the whole schema, holds room for each of its fields on the stack.
        let answer: crate::access::Result<#answer> = ::std::boxed::Box::pin(async move #body).await;
        #done
    });
    Ok(())
}

fn is_context(ty: &Type) -> bool {
    matches!(ty, Type::Reference(r) if matches!(&*r.elem, Type::Path(p) if p.path.segments.last().is_some_and(|s| s.ident == "Context")))
}

fn argument<'a>(ty: &'a Type, outer: &str) -> Option<&'a Type> {
    let Type::Path(path) = ty else { return None };
    let segment = path.path.segments.last().filter(|s| s.ident == outer)?;
    let syn::PathArguments::AngleBracketed(arguments) = &segment.arguments else { return None };
    arguments.args.iter().find_map(|a| match a {
        syn::GenericArgument::Type(ty) => Some(ty),
        _ => None,
    })
}
