import { defineConfig } from 'vite';

// Nothing inside the page but what it loads: the policy of Oriel allows no inline script, no data: address.
export default defineConfig({
  base: './',
  build: {
    assetsDir: 'console',
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 8192,
  },
  worker: { format: 'es' },
});
