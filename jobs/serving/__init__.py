"""The page to speak into: models on threads of their own, a session a tab, and the web server."""
