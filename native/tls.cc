#include "tls.h"

#include <nghttp2/nghttp2.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <stdexcept>

namespace lectern {
namespace {

int choose_h2(SSL*, const unsigned char** out, unsigned char* size, const unsigned char* in, unsigned int in_size, void*) {
  auto* chosen = const_cast<unsigned char**>(out);
  if (nghttp2_select_next_protocol(chosen, size, in, in_size) != 1) return SSL_TLSEXT_ERR_ALERT_FATAL;
  return SSL_TLSEXT_ERR_OK;
}

std::unique_ptr<BIO, decltype(&BIO_free)> memory(const std::string& pem) {
  return {BIO_new_mem_buf(pem.data(), int(pem.size())), BIO_free};
}

}  // namespace

std::shared_ptr<SSL_CTX> tls_context(const std::string& certificate, const std::string& key, const std::string& client_ca) {
  std::shared_ptr<SSL_CTX> context(SSL_CTX_new(TLS_server_method()), SSL_CTX_free);
  auto fail = [](const char* what) { ERR_clear_error(); throw std::invalid_argument(what); };
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  SSL_CTX_set_options(context.get(), SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  SSL_CTX_set_mode(context.get(), SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_cipher_list(context.get(), "ECDHE+AESGCM:ECDHE+CHACHA20");  // those of TLS 1.2 that RFC 9113 allows
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);      // tickets serve as well and take no memory
  SSL_CTX_set_alpn_select_cb(context.get(), choose_h2, nullptr);
  auto chain = memory(certificate);
  std::unique_ptr<X509, decltype(&X509_free)> leaf(PEM_read_bio_X509(chain.get(), nullptr, nullptr, nullptr), X509_free);
  if (!leaf || SSL_CTX_use_certificate(context.get(), leaf.get()) != 1) fail("the certificate is not PEM");
  while (X509* next = PEM_read_bio_X509(chain.get(), nullptr, nullptr, nullptr)) SSL_CTX_add0_chain_cert(context.get(), next);
  auto key_text = memory(key);
  std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> secret(
      PEM_read_bio_PrivateKey(key_text.get(), nullptr, nullptr, nullptr), EVP_PKEY_free);
  if (!secret || SSL_CTX_use_PrivateKey(context.get(), secret.get()) != 1) fail("the key does not belong to the certificate");
  if (!client_ca.empty()) {
    auto authorities = memory(client_ca);
    X509_STORE* store = SSL_CTX_get_cert_store(context.get());
    while (X509* next = PEM_read_bio_X509(authorities.get(), nullptr, nullptr, nullptr)) {
      X509_STORE_add_cert(store, next);
      SSL_CTX_add_client_CA(context.get(), next);
      X509_free(next);
    }
    SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
    static const unsigned char session[] = "lectern";
    SSL_CTX_set_session_id_context(context.get(), session, sizeof session);
  }
  ERR_clear_error();
  return context;
}

std::string subject_of(X509* certificate) {
  std::unique_ptr<BIO, decltype(&BIO_free)> text(BIO_new(BIO_s_mem()), BIO_free);
  X509_NAME_print_ex(text.get(), X509_get_subject_name(certificate), 0, XN_FLAG_RFC2253);
  char* start = nullptr;
  long size = BIO_get_mem_data(text.get(), &start);
  if (size > 0) return std::string(start, static_cast<size_t>(size));
  auto* names = static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr));
  std::unique_ptr<GENERAL_NAMES, decltype(&GENERAL_NAMES_free)> owned(names, GENERAL_NAMES_free);
  for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names, i);
    if (name->type != GEN_DNS && name->type != GEN_URI && name->type != GEN_EMAIL) continue;
    const ASN1_IA5STRING* value = name->d.ia5;
    return std::string(reinterpret_cast<const char*>(ASN1_STRING_get0_data(value)), size_t(ASN1_STRING_length(value)));
  }
  return "";
}

}  // namespace lectern
