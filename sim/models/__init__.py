"""Small models of protocols, explored exhaustively: of rules that are argued, before there is code to simulate."""
