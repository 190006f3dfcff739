#!/usr/bin/env node
import { main } from "../src/build/cli.js";

process.exitCode = await main(process.argv.slice(2));
