// GraphiQL at the endpoint beside which it is served. The token goes into its tab "Headers".

import 'graphiql/setup-workers/vite';
import 'graphiql/style.css';
import './main.css';

import { createGraphiQLFetcher } from '@graphiql/toolkit';
import { GraphiQL } from 'graphiql';
import { createElement } from 'react';
import { createRoot } from 'react-dom/client';

const endpoint = new URL('graphql', document.baseURI);
const socket = new URL(endpoint);
socket.protocol = socket.protocol.replace('http', 'ws');

const fetcher = createGraphiQLFetcher({ url: endpoint.href, subscriptionUrl: socket.href });
createRoot(document.getElementById('graphiql')).render(createElement(GraphiQL, { fetcher }));
