// TLS of the front, by OpenSSL.
#pragma once

#include <openssl/ssl.h>

#include <memory>
#include <string>

namespace lectern {

// The TLS settings of new connections, from PEM; an empty `client_ca` asks for no client certificate. Throws
// std::invalid_argument.
std::shared_ptr<SSL_CTX> tls_context(const std::string& certificate, const std::string& key, const std::string& client_ca);

// The subject of a certificate in RFC 2253's form, or its first alternative name if it has no subject, as with SPIFFE.
std::string subject_of(X509* certificate);

}  // namespace lectern
