"""The application under SAM CLI: what it builds, how large that is, and every function run by `sam local invoke`."""
